"""Trains a list of runs, leaves out the finished ones, resumes a broken one.

    CAMVID=/path/to/camvid BCCD=/path/to/bccd WEIGHTS=/path/to/converted \\
        python -m benchmarks.saturation.run

Each finished run is one line of results.jsonl, and its scalars are a file in
logs/. The list (runs.json) is a list of groups: ``config``, ``iterations`` and
``seeds`` (one run for each pair), and where needed ``split`` ('held': a part
of train takes the place of val; 'eighth', 'quarter': so many of train's images
have labels), ``options`` (changes to the config, as ``--cfg-options`` takes
them) and ``label``, which names them.

Several of these may run at once: each leaves alone what another one trains.
"""
import argparse
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from mmselfkd.comparison.job_queue import Job, JobQueue, Step
from mmselfkd.comparison.logs import read_log

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DROPPED = ('time', 'data_time', 'memory', 'iter', 'epoch', 'base_lr')


def read_runs(path):
    """The runs that a list names, in its order.

    Args:
        path (Path): A JSON file of groups.

    Returns:
        list[dict]: Each with ``run`` (its name), ``config``, ``split``,
        ``label``, ``options``, ``iterations`` and ``seed``.
    """
    runs = []
    for group in json.loads(path.read_text()):
        for iterations in group['iterations']:
            for seed in group['seeds']:
                run = dict(
                    config=group['config'],
                    split=group.get('split', 'val'),
                    label=group.get('label', ''),
                    options=group.get('options', []),
                    iterations=iterations,
                    seed=seed)
                parts = [run['config'], run['label'], run['split'],
                         str(iterations), f'seed{seed}']
                run['run'] = '-'.join(filter(None, parts))
                runs.append(run)
    return runs


def read_scalars(work_dir):
    """What a run logged, over all the times it was started.

    Args:
        work_dir (Path): Its work directory.

    Returns:
        tuple[list[dict], dict, float, int]: The records, by iteration; the
        metrics of each evaluation, by iteration; the seconds that the
        iterations took; how often it was started.
    """
    train, evaluations, starts = read_log(work_dir)
    seconds, previous = 0, 0
    for step, record in sorted(train.items()):
        seconds += (step - previous) * record['time']
        previous = step
    records = [*map(compact, train.values()), *map(compact,
                                                   evaluations.values())]
    # an evaluation stands behind the iteration it follows
    records.sort(key=lambda record: (record['step'], 'loss' not in record))
    metrics = {}
    for step, record in sorted(evaluations.items()):
        metrics[step] = compact(record)
        del metrics[step]['step']
    return records, metrics, round(seconds, 1), starts


def compact(record):
    """A record in six digits, without what is no curve."""
    return {
        key: float(f'{value:.6g}') if isinstance(value, float) else value
        for key, value in record.items() if key not in DROPPED
    }


def read_commit():
    """The commit of this repository, '+' behind it if files differ."""

    def git(*args):
        return subprocess.run(['git', '-C', ROOT, *args], text=True,
                              capture_output=True, check=True).stdout

    out = [f':!{(HERE / name).relative_to(ROOT)}'
           for name in ('results.jsonl', 'logs')]
    changed = git('status', '--porcelain', '-uno', '--', '.', *out)
    return git('rev-parse', 'HEAD').strip() + '+' * bool(changed)


class Bench:
    """Makes jobs of runs and keeps what they leave behind.

    Args:
        train (list[str]): The command that trains a config.
        work_dirs (Path): Where each run gets a folder.
        out (Path): Where results.jsonl and logs/ are.
    """

    def __init__(self, train, work_dirs, out):
        self.train, self.work_dirs, self.out = train, work_dirs, out
        self.results = out / 'results.jsonl'

    def job(self, run):
        folder = self.work_dirs / run['run']
        command = [
            *self.train, HERE / 'configs' / f'{run["config"]}.py',
            '--work-dir', folder, '--resume', '--cfg-options',
            f'randomness.seed={run["seed"]}', *run['options']
        ]
        env = dict(ITERATIONS=str(run['iterations']), SPLIT=run['split'])
        return Job(run['run'], folder, [
            Step(lambda: command, lambda: self.kept(run), env)])

    def kept(self, run):
        """Whether a run is among the results, or can be added to them."""
        return self.finished(run) or self.keep(run)

    def finished(self, run):
        if not self.results.exists():
            return False
        lines = self.results.read_text().splitlines()
        return run['run'] in [json.loads(line)['run'] for line in lines]

    def keep(self, run):
        """Adds a run to the results; False if its last evaluation is not
        there."""
        records, metrics, seconds, starts = read_scalars(
            self.work_dirs / run['run'])
        if run['iterations'] not in metrics:
            return False
        log = self.out / 'logs' / f'{run["run"]}.jsonl'
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(''.join(json.dumps(r) + '\n' for r in records))
        row = dict(run, metrics=metrics, train_seconds=seconds, starts=starts,
                   commit=read_commit())
        with open(self.results, 'a') as file:
            file.write(json.dumps(row) + '\n')
        return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--runs', type=Path, default=HERE / 'runs.json', help='the list')
    parser.add_argument(
        '--only', default='*', help='a pattern of names, as camvid_student*')
    parser.add_argument(
        '--jobs', type=int, default=1, help='how many runs at a time')
    parser.add_argument(
        '--work-dirs', type=Path, default=ROOT / 'work_dirs' / 'saturation')
    parser.add_argument(
        '--out', type=Path, default=HERE,
        help='the folder of results.jsonl and logs')
    parser.add_argument(
        '--train', default=shlex.join(
            [sys.executable, str(ROOT / 'tools' / 'train.py')]),
        help='the command that trains a config')
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))
    bench = Bench(shlex.split(args.train), args.work_dirs.resolve(), args.out)
    jobs = [bench.job(run) for run in read_runs(args.runs)
            if fnmatch.fnmatch(run['run'], args.only)]
    env = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
    env.setdefault('OMP_NUM_THREADS', '1')
    failed = JobQueue(jobs, [env] * args.jobs).run()
    if failed:
        sys.exit('failed: ' + ', '.join(failed))


if __name__ == '__main__':
    main()
