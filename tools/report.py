"""Makes one page of comparisons that tools/compare.py has run.

The page holds its figures and pictures in itself, and opens without a network.
Runs that are not finished are shown as such.
"""
import argparse
import sys
from pathlib import Path

from mmselfkd import ConfigError
from mmselfkd.comparison.page import render
from mmselfkd.comparison.results import read_results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'work_dirs', nargs='+', type=Path, help='of tools/compare.py')
    parser.add_argument(
        '--out',
        type=Path,
        help='by default report.html in the first work directory')
    parser.add_argument('--title', help='by default the names of the folders')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='as tools/train.py')
    args = parser.parse_args()
    try:
        results = read_results(args.work_dirs)
    except ConfigError as error:
        sys.exit(str(error))
    title = args.title or ', '.join(
        folder.resolve().name for folder in args.work_dirs)
    out = args.out or args.work_dirs[0] / 'report.html'
    out.write_text(render(results, title, args.trust_checkpoint))
    print(out)


if __name__ == '__main__':
    main()
