"""Trains a list of runs, leaves out the finished ones, resumes a broken one.

    CAMVID=/path/to/camvid BCCD=/path/to/bccd WEIGHTS=/path/to/converted \\
        python -m benchmarks.saturation.run

Each finished run is one line of results.jsonl, and its scalars are a file in
logs/. The list (runs.json) is a list of groups: ``config``, ``iterations`` and
``seeds`` (one run for each pair), and where needed ``split`` ('held': a part
of train takes the place of val), ``options`` (changes to the config, as
``--cfg-options`` takes them) and ``label``, which names them.

Several of these may run at once: each leaves alone what another one trains.
"""
import argparse
import fcntl
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

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
        tuple[list[dict], dict, float, int]: The records, by iteration, the
        last one where an iteration was repeated; the metrics of each
        evaluation, by iteration; the seconds that the iterations took; how
        often it was started.
    """
    train, evaluations = {}, {}
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'))
    for path in paths:
        for record in map(json.loads, path.read_text().splitlines()):
            kept = train if 'loss' in record else evaluations
            kept[record['step']] = record
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
    return records, metrics, round(seconds, 1), len(paths)


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


class Queue:
    """Starts runs and keeps what they leave behind.

    Args:
        train (list[str]): The command that trains a config.
        work_dirs (Path): Where each run gets a folder.
        out (Path): Where results.jsonl and logs/ are.
    """

    def __init__(self, train, work_dirs, out):
        self.train, self.work_dirs, self.out = train, work_dirs, out
        self.results = out / 'results.jsonl'
        self.active = []

    def finished(self, run):
        if not self.results.exists():
            return False
        lines = self.results.read_text().splitlines()
        return run['run'] in [json.loads(line)['run'] for line in lines]

    def start(self, run):
        """Trains a run in a process of its own, unless it is finished or
        another process trains it."""
        folder = self.work_dirs / run['run']
        folder.mkdir(parents=True, exist_ok=True)
        # inherited, so that it lasts as long as the training does
        lock = open(folder / 'lock', 'w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{run["run"]}: another process trains it', flush=True)
            lock.close()
            return
        if self.finished(run):
            lock.close()
            return
        command = [
            *self.train, HERE / 'configs' / f'{run["config"]}.py',
            '--work-dir', folder, '--resume', '--cfg-options',
            f'randomness.seed={run["seed"]}', *run['options']
        ]
        env = dict(
            os.environ,
            ITERATIONS=str(run['iterations']),
            SPLIT=run['split'],
            PYTHONPATH=os.pathsep.join(
                filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
        env.setdefault('OMP_NUM_THREADS', '1')
        print(time.strftime('%H:%M:%S'), 'start', run['run'], flush=True)
        with open(folder / 'console.txt', 'a') as console:
            process = subprocess.Popen(
                list(map(str, command)), stdout=console,
                stderr=subprocess.STDOUT, env=env, pass_fds=[lock.fileno()])
        self.active.append((run, process, lock))

    def collect(self):
        """Keeps the results of the processes that have ended.

        Returns:
            list[str]: The runs that failed.
        """
        failed = []
        for run, process, lock in list(self.active):
            if process.poll() is None:
                continue
            self.active.remove((run, process, lock))
            kept = process.returncode == 0 and self.keep(run)
            print(time.strftime('%H:%M:%S'), 'finished' if kept else 'failed',
                  run['run'], flush=True)
            if not kept:
                failed.append(run['run'])
            lock.close()
        return failed

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

    def stop(self):
        """Ends what still trains; it is resumed the next time."""
        for _, process, _ in self.active:
            process.terminate()
        for _, process, lock in self.active:
            process.wait()
            lock.close()


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
    queue = Queue(shlex.split(args.train), args.work_dirs.resolve(), args.out)
    pending = [run for run in read_runs(args.runs)
               if fnmatch.fnmatch(run['run'], args.only)]
    failed = []
    try:
        while pending or queue.active:
            while pending and len(queue.active) < args.jobs:
                queue.start(pending.pop(0))
            failed += queue.collect()
            time.sleep(0.1)
    finally:
        queue.stop()
    if failed:
        sys.exit('failed: ' + ', '.join(failed))


if __name__ == '__main__':
    main()
