"""A killed run loses at most what came after its last whole checkpoint."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import assert_equal, load

SCRIPT = Path(__file__).with_name('interrupted_run.py')


def run(work_dir, moment='never', iteration=0, resume='fresh'):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
        [str(SCRIPT.parents[2]), str(SCRIPT.parents[1]),
         os.environ.get('PYTHONPATH', '')]))
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(work_dir), moment, str(iteration),
         resume], env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What the run leaves that nobody kills."""
    folder = tmp_path_factory.mktemp('whole')
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return load(folder, 5)


@pytest.mark.parametrize('moment', ['step', 'write'])
def test_killed_and_resumed_is_not_killed(tmp_path, whole, moment):
    """In a step, and with half of a checkpoint on the disk."""
    assert run(tmp_path, moment, 3).returncode == -signal.SIGKILL
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')
    assert (tmp_path / 'iter_3.pth').exists() == (moment == 'write')
    done = run(tmp_path, resume='resume')
    assert done.returncode == 0, done.stderr
    resumed = load(tmp_path, 5)
    for entry in ('state_dict', 'optimizer', 'param_schedulers', 'mmselfkd'):
        assert_equal(whole[entry], resumed[entry], entry)
