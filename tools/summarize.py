"""One table of finished runs, from the logs in their work directories."""
import argparse
import json
from pathlib import Path

import numpy as np

# what the hosts log: its title in a table, a factor and the digits
METRICS = {
    'mIoU': ('mIoU', 1, 2),
    'coco/bbox_mAP': ('mAP', 100, 1),
    'coco/segm_mAP': ('mask mAP', 100, 1),
    'rmse': ('RMSE', 1, 3),
    'abs_rel': ('AbsRel', 1, 3),
    'd1': ('d1', 1, 3)
}


def read_log(folder):
    """What a run logged.

    Args:
        folder (str | Path): Its work directory.

    Returns:
        tuple[dict, dict]: The scores, written by title, and the seconds per
        iteration, each by iteration.
    """
    scores, times = {}, {}
    for file in sorted(Path(folder).glob('*/vis_data/scalars.json')):
        iteration = 0
        for record in map(json.loads, file.read_text().splitlines()):
            found = {
                title: f'{factor * record[key]:.{digits}f}'
                for key, (title, factor, digits) in METRICS.items()
                if key in record
            }
            if found:  # mmdet counts validations by epochs
                scores[max(iteration, record['step'])] = found
            if 'loss' in record:
                iteration = record['step']
                times[iteration] = record['time']
    return scores, times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path)
    args = parser.parse_args()
    rows = []
    for folder in args.work_dirs:
        scores, times = read_log(folder)
        last = max(scores, default='-')
        row = {'run': folder.name, 'iterations': last}
        if scores:
            median = np.median(list(times.values()))
            row.update(scores[last], **{'s / iteration': f'{median:.2f}'})
        rows.append(row)
    found = [
        title for title, *_ in METRICS.values()
        if any(title in row for row in rows)
    ]
    titles = ['run', 'iterations', *found, 's / iteration']
    print_row(titles)
    print_row('-' * len(titles))
    for row in rows:
        print_row(row.get(title, '-') for title in titles)


def print_row(cells):
    """One line of a Markdown table."""
    print('|', ' | '.join(map(str, cells)), '|')


if __name__ == '__main__':
    main()
