"""``python -m tests.fuzz``: any number of cases."""
import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from . import __doc__ as purpose
from . import make_detector, make_invalid, make_valid, problems_of, replay


def main():
    parser = argparse.ArgumentParser(
        description=purpose,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--valid', type=int, default=100)
    parser.add_argument('--invalid', type=int, default=400)
    parser.add_argument('--detectors', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--only', help='one case: valid-N, invalid-N or detector-N')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    labels = [args.only] if args.only else [
        *(f'valid-{n}' for n in range(args.valid)),
        *(f'invalid-{n}' for n in range(args.invalid)),
        *(f'detector-{n}' for n in range(args.detectors))]
    failed, start = [], time.process_time()
    for label in labels:
        kind, _, number = label.partition('-')
        make = dict(valid=make_valid, invalid=make_invalid,
                    detector=make_detector)[kind]
        with tempfile.TemporaryDirectory() as folder:
            case = make(args.seed, int(number), folder)
            problems = problems_of(case, Path(folder))
        if problems or args.only:
            print(replay(case))
        if problems:
            failed.append(f'{label} {case.what}: {problems[0].strip()}')
            print('\n'.join([f'{label} FAILED {case.what}', *problems]),
                  flush=True)
    for line in failed:
        print('FAILED', line.splitlines()[0], '...', line.splitlines()[-1])
    valid, invalid, detectors = (
        sum(label.startswith(kind) for label in labels)
        for kind in ('valid', 'invalid', 'detector'))
    print(f'fuzz: seed {args.seed}, {valid} valid, {invalid} invalid, '
          f'{detectors} of detectors, {len(failed)} failed, '
          f'{time.process_time() - start:.0f} s of CPU')
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
