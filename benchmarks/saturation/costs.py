"""Measures what a step of each run costs against the plain one: costs.json.

    CAMVID=... WEIGHTS=... TEACHER=... \\
        python -m benchmarks.saturation.costs benchmarks/saturation/round1.json

Median of the ratios of the CPU times of one process, by ``step_cost.py``. A
run with a teacher is measured live and, on CamVid, with its answers stored,
as ``*_taught`` and ``*_cached``, whichever of them the list names. What is in
costs.json is left out, so delete the file to measure anew. The weights of
``TEACHER`` play no part.
"""
import argparse
import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.config import DictAction

from benchmarks.saturation import table
from benchmarks.saturation.run import HERE, read_runs

sys.path.insert(0, str(HERE.parent))  # the tools there are no package

import step_cost  # noqa: E402
from step_variants import line_up, stripped, with_cache  # noqa: E402
from train import load_config  # noqa: E402

AT_A_TIME = 4  # configs that share one process, each with its teachers


def measured(steps, stored, warmup, iters):
    """The cost of each step in plain ones.

    Args:
        steps (dict[str, Config]): By name.
        stored (bool): Measure each with its teacher's answers stored, too.
        warmup (int): Rounds before the timed ones.
        iters (int): Timed rounds.

    Returns:
        dict[str, float]: By name, with '_cached' for '_taught' where the
        answers are stored.
    """
    with TemporaryDirectory() as folder:
        variants = line_up(list(steps.items()))
        if stored:
            variants = with_cache(variants, f'{folder}/answers')
        for number, variant in enumerate(variants):
            # names of runs are for the whole process
            variant.cfg = stripped(variant.cfg, folder,
                                   f'{Path(folder).name}_{number}')
        step_cost.train_together(
            variants,
            partial(step_cost.measure, variants, warmup, iters, cpu_time=True),
            warmup + iters + step_cost.MEMORY_ROUNDS)
    found = {}
    for variant in variants:
        if variant.plain is not None:
            name, cached, _ = variant.name.partition(', cached')
            if cached:
                name = name.replace('_taught', '_cached')
            found[name] = round(float(np.median(
                np.divide(variant.times, variant.plain.times))), 3)
    return found


def read_steps(lists, work_dir):
    """The configs that the lists name, by config and label."""
    options = argparse.ArgumentParser()
    options.add_argument('--cfg-options', nargs='+', action=DictAction)
    steps = {}
    for run in (run for path in lists for run in read_runs(path)):
        config = run['config'].replace('_cached', '_taught')
        name = ' '.join(filter(None, [config, run['label']]))
        if name not in steps and config.endswith(('_taught', '_alone')):
            given = ['--cfg-options', *run['options']] * bool(run['options'])
            steps[name] = load_config(argparse.Namespace(
                config=str(HERE / 'configs' / f'{config}.py'),
                work_dir=work_dir, launcher='none', local_rank=0,
                **vars(options.parse_args(given))))
    return steps


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lists', nargs='+', type=Path)
    parser.add_argument('--warmup', type=int, default=5)
    parser.add_argument('--iters', type=int, default=30)
    parser.add_argument(
        '--out', type=Path, default=HERE, help='the folder of costs.json')
    args = parser.parse_args()
    costs = table.read_costs(args.out)
    with TemporaryDirectory() as folder:
        steps = {name: cfg for name, cfg in read_steps(
            args.lists, folder).items() if name not in costs}
    for data in table.NAMES:
        for kind in ('_taught', '_alone'):
            names = [name for name in steps if name.startswith(data)
                     and name.split()[0].endswith(kind)]
            for i in range(0, len(names), AT_A_TIME):
                part = names[i:i + AT_A_TIME]
                stored = kind == '_taught' and (
                    HERE / 'configs' / f'{data}_cached.py').exists()
                costs.update(measured(
                    {name: steps[name] for name in part}, stored,
                    args.warmup, args.iters))
                (args.out / 'costs.json').write_text(
                    json.dumps(dict(sorted(costs.items())), indent=1) + '\n')
                print({name: costs[name] for name in part}, flush=True)


if __name__ == '__main__':
    main()
