"""One table of finished runs, from the logs in their work directories."""
import argparse
import json
from pathlib import Path

import numpy as np


def read_log(folder):
    """mIoU and seconds per iteration as logged, each by iteration."""
    miou, times = {}, {}
    for file in sorted(Path(folder).glob('*/vis_data/scalars.json')):
        for record in map(json.loads, file.read_text().splitlines()):
            if 'mIoU' in record:
                miou[record['step']] = record['mIoU']
            if 'loss' in record:
                times[record['step']] = record['time']
    return miou, times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path)
    args = parser.parse_args()
    print('| run | iterations | mIoU | s / iteration |\n| - | - | - | - |')
    for folder in args.work_dirs:
        miou, times = read_log(folder)
        if not miou:
            print(f'| {folder.name} | - | - | - |')
            continue
        last = max(miou)
        print(f'| {folder.name} | {last} | {miou[last]:.2f} | '
              f'{np.median(list(times.values())):.2f} |')


if __name__ == '__main__':
    main()
