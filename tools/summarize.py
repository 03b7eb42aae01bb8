"""One table of finished runs, from the logs in their work directories."""
import argparse
from pathlib import Path

import numpy as np

from mmselfkd.comparison import logs


def read_log(folder):
    """What a run logged.

    Args:
        folder (str | Path): Its work directory.

    Returns:
        tuple[dict, dict]: The scores, written by title, and the seconds per
        iteration, each by iteration.
    """
    log = logs.read_log(folder)
    scores = {
        iteration: {
            metric.title: metric.write(record[key])
            for key, metric in logs.METRICS.items() if key in record
        }
        for iteration, record in log.evaluations.items()
    }
    return ({iteration: found for iteration, found in scores.items() if found},
            {iteration: record['time']
             for iteration, record in log.train.items()})


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
        metric.title for metric in logs.METRICS.values()
        if any(metric.title in row for row in rows)
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
