"""Cached teachers of several processes, and of one that is killed."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_equal, train
from mmengine.config import Config
from mmengine.registry import MODELS
from processes import finish, free_port
from tiny_runs import model

SCRIPT = Path(__file__).with_name('cached_run.py')


@pytest.fixture
def start(tmp_path):
    """Starts the script, in one process or several."""
    torch.save(MODELS.build(dict(model(8), _scope_='mmseg')).state_dict(),
               tmp_path / 'teacher.pth')

    def start(kill_at, processes=1):
        env = dict(os.environ, MASTER_ADDR='127.0.0.1',
                   MASTER_PORT=str(free_port()), WORLD_SIZE=str(processes),
                   GLOO_SOCKET_IFNAME='lo')
        env['PYTHONPATH'] = os.pathsep.join(
            [str(SCRIPT.parents[2]), str(SCRIPT.parents[1])])
        return [subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / 'cache'),
             str(tmp_path / 'run'), str(kill_at)],
            env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for rank in range(processes)]

    return start


def test_two_ranks_fill_one_folder(tmp_path, start):
    """Live, filled and read are the same in both; each answer is there."""
    finish(start(kill_at=-1, processes=2), timeout=200)
    stored = [path.name for path in tmp_path.rglob('*.safetensors')]
    assert sorted(stored) == sorted(
        f'{i}-{v}-32x32.safetensors' for i in range(8) for v in range(2))


def test_a_killed_run_leaves_answers_that_are_read(
        tmp_path, start, monkeypatch):
    import cached_run

    process, = start(kill_at=6)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    cache = tmp_path / 'cache'
    assert len(list(cache.rglob('*.safetensors'))) == 5
    assert len(list(cache.rglob('.*'))) == 1  # what was not renamed
    monkeypatch.setattr(Config, 'pretty_text', '')
    runs = [train(cached_run.make(
        str(cache), tmp_path / 'run', str(tmp_path / 'teacher.pth'), use
    ))[1].entries for use in (False, True, True)]
    assert_equal(runs[0], runs[1])
    assert_equal(runs[0], runs[2])
    assert len(list(cache.rglob('*.safetensors'))) == 16
