"""The runner of benchmarks/saturation, with a stub in place of training."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

# Trains as tools/train.py does, as far as the runner sees it: 4 iterations,
# a checkpoint and a line of scalars each, resumed where it stopped.
STUB = textwrap.dedent("""
    import json, os, pathlib, sys, time
    config, _, folder, resume, _, *options = sys.argv[1:]
    assert resume == '--resume' and pathlib.Path(config).is_file(), sys.argv
    folder = pathlib.Path(folder)
    n = int(os.environ['ITERATIONS'])
    assert os.environ['OMP_NUM_THREADS'] == '1'
    with open(folder / 'starts', 'a') as file:
        print(os.environ['SPLIT'], *options, file=file)
    checkpoint = folder / 'checkpoint'
    begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
    log = folder / f'{begin}' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    with open(log, 'w') as file:
        def write(**record):
            print(json.dumps(record), file=file, flush=True)
        for step in range(begin + 1, n + 1):
            write(loss=1 / step, lr=0.1, time=0.5, data_time=0.1, step=step)
            if step == 3 and (folder / 'fail').exists():
                sys.exit(1)
            if step == 3 and (folder / 'hang').exists():
                (folder / 'pid').write_text(str(os.getpid()))
                (folder / 'hanging').touch()
                time.sleep(60)
            if step % 2 == 0:
                write(mIoU=10. * step + len(options), step=step)
                checkpoint.write_text(str(step))
    """)


class Bench:
    """A folder with a list of runs, and the runner's command on it."""

    def __init__(self, root, folder):
        self.folder = folder
        (folder / 'stub.py').write_text(STUB)
        self.command = [
            sys.executable, '-m', 'benchmarks.saturation.run', '--runs',
            folder / 'runs.json', '--work-dirs', folder / 'work', '--out',
            folder, '--train', f'{sys.executable} {folder / "stub.py"}']
        self.root = root

    def write(self, *groups):
        (self.folder / 'runs.json').write_text(json.dumps(groups))

    def start(self, *options):
        return subprocess.Popen(
            [*self.command, *options], cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, *options):
        process = self.start(*options)
        output, _ = process.communicate(timeout=200)
        return process.returncode, output

    def rows(self):
        lines = (self.folder / 'results.jsonl').read_text().splitlines()
        return list(map(json.loads, lines))

    def starts(self, run):
        return (self.folder / 'work' / run / 'starts').read_text().split('\n')[
            :-1]

    def mark(self, run, name):
        path = self.folder / 'work' / run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def wait_for(self, run):
        end = time.monotonic() + 20
        while not (self.folder / 'work' / run / 'hanging').exists():
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def bench(root, tmp_path):
    bench = Bench(root, tmp_path)
    bench.write(dict(config='camvid_student', iterations=[2, 4], seeds=[7]))
    return bench


SHORT, LONG = 'camvid_student-val-2-seed7', 'camvid_student-val-4-seed7'


def test_a_finished_run_is_a_line_and_a_log(bench, root):
    bench.write(
        dict(config='camvid_student', iterations=[4], seeds=[7],
             split='held', options=['a.b=1', 'c=2'], label='tried'))
    code, output = bench.run()
    assert code == 0, output
    row, = bench.rows()
    commit = row.pop('commit')
    head = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=root, text=True,
                          capture_output=True, check=True).stdout.strip()
    assert commit.rstrip('+') == head
    run = 'camvid_student-tried-held-4-seed7'
    assert row == dict(
        run=run, config='camvid_student', split='held', label='tried',
        options=['a.b=1', 'c=2'], iterations=4, seed=7,
        metrics={'2': dict(mIoU=23.), '4': dict(mIoU=43.)}, train_seconds=2.,
        starts=1)
    assert bench.starts(run) == ['held randomness.seed=7 a.b=1 c=2']
    log = (bench.folder / 'logs' / f'{run}.jsonl').read_text().splitlines()
    assert list(map(json.loads, log)) == [
        dict(loss=1., lr=0.1, step=1), dict(loss=.5, lr=0.1, step=2),
        dict(mIoU=23., step=2), dict(loss=.333333, lr=0.1, step=3),
        dict(loss=.25, lr=0.1, step=4), dict(mIoU=43., step=4)]


def test_finished_runs_are_left_out_and_new_ones_appended(bench):
    assert bench.run('--only', '*-2-*')[0] == 0
    first = (bench.folder / 'results.jsonl').read_text()
    assert bench.run()[0] == 0
    assert (bench.folder / 'results.jsonl').read_text().startswith(first)
    assert [row['run'] for row in bench.rows()] == [SHORT, LONG]
    assert bench.starts(SHORT) == ['val randomness.seed=7']


def test_a_failed_run_is_named_and_resumed(bench):
    """Others are trained all the same; what was repeated counts once."""
    bench.write(dict(config='camvid_student', iterations=[4, 2], seeds=[7]))
    mark = bench.mark(LONG, 'fail')
    code, output = bench.run()
    assert code == 1 and output.endswith(f'failed: {LONG}\n')
    assert [row['run'] for row in bench.rows()] == [SHORT]
    mark.unlink()
    assert bench.run()[0] == 0
    row = bench.rows()[1]
    assert row['run'] == LONG and row['train_seconds'] == 2.
    assert row['starts'] == 2
    assert sorted(row['metrics']) == ['2', '4']
    folders = sorted(
        path.name for path in (bench.folder / 'work' / LONG).glob('[0-9]'))
    assert folders == ['0', '2']


def test_a_run_without_its_last_evaluation_failed(bench):
    bench.write(dict(config='camvid_student', iterations=[3], seeds=[7]))
    code, output = bench.run()
    assert code == 1 and 'failed: camvid_student-val-3-seed7' in output
    assert not (bench.folder / 'results.jsonl').exists()


def test_killed_in_between(bench):
    """The training goes with its runner, and is resumed by the next one."""
    mark = bench.mark(LONG, 'hang')
    process = bench.start()
    bench.wait_for(LONG)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) != 0
    mark.unlink()
    assert bench.run()[0] == 0
    assert [row['run'] for row in bench.rows()] == [SHORT, LONG]
    assert len(bench.starts(LONG)) == 2


def test_what_another_runner_trains_is_left_alone(bench):
    """Even if that runner is gone and its training is not."""
    bench.mark(LONG, 'hang')
    process = bench.start()
    bench.wait_for(LONG)
    process.kill()
    process.wait()
    try:
        code, output = bench.run()
        assert code == 0 and f'{LONG}: another process trains it' in output
        assert len(bench.starts(LONG)) == 1
    finally:
        pid = (bench.folder / 'work' / LONG / 'pid').read_text()
        os.kill(int(pid), signal.SIGKILL)


def test_as_many_at_a_time_as_asked_for(bench):
    marks = [bench.mark(run, 'hang') for run in (LONG, LONG.replace('7', '8'))]
    bench.write(dict(config='camvid_student', iterations=[4], seeds=[7, 8]))
    process = bench.start('--jobs', '2')
    for mark in marks:
        bench.wait_for(mark.parent.name)
    assert process.poll() is None  # both wait, beside each other
    process.terminate()
    process.wait(timeout=100)
