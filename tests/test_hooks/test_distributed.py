"""Two processes of batch B do what one process of batch 2 B does."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name('distributed_run.py')


def launch(work_dir, batch_size, processes):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    env = dict(os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
               WORLD_SIZE=str(processes), OMP_NUM_THREADS='1',
               CUDA_VISIBLE_DEVICES='')
    env['PYTHONPATH'] = os.pathsep.join(
        [str(SCRIPT.parents[2]), str(SCRIPT.parents[1]),
         env.get('PYTHONPATH', '')])
    runs = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(work_dir), str(batch_size)],
            env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(processes)
    ]
    try:
        outputs = [run.communicate(timeout=300)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs):
        assert run.returncode == 0, output
    return torch.load(work_dir / 'iter_4.pth', weights_only=False)


def test_two_processes_equal_one_of_twice_the_batch(tmp_path):
    """Student, EMA, adapters (one of them idle at first), discriminator."""
    one = launch(tmp_path / 'one', 4, 1)
    two = launch(tmp_path / 'two', 2, 2)
    assert list(one['state_dict']) == list(two['state_dict'])
    extra, other = one['mmselfkd'], two['mmselfkd']
    assert extra['modules'] and extra['adversaries']['loss_ho']['losses']
    for first, second in (
            (one['state_dict'], two['state_dict']),
            (one['ema_state_dict'], two['ema_state_dict']),
            (extra['modules'], other['modules']),
            (extra['ema'], other['ema']),
            (extra['adversaries']['loss_ho']['losses'],
             other['adversaries']['loss_ho']['losses'])):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(
                first[name], second[name], rtol=1e-3, atol=1e-5, msg=name)
