"""Runs by the live teacher, filling its cache and reading it, in one process.

CACHE WORK_DIR KILL_AT: by this many answers that are stored it kills itself.
RANK, WORLD_SIZE, ... may be set.
"""
import os
import signal
import sys

import torch.distributed as dist
from helpers import KD, NFD, assert_equal, record, train
from mmengine.config import Config
from tiny_runs import config, teacher

from mmselfkd.teachers import cached


def make(cache, work_dir, weights, cached=True):
    """Of 2 epochs with 8 images in batches of 2, 2 views."""
    cfg = config(
        work_dir, dict(
            type='mmselfkd.DistillHook',
            teacher=dict(
                teacher(checkpoint=weights), **(dict(cache=dict(
                    dir=cache, precision='fp32')) if cached else {})),
            losses=dict(loss_kd=KD, loss_nfd=NFD)),
        iters=8, val_dataloader=None, val_evaluator=None, val_cfg=None,
        **{'default_hooks.checkpoint': None})
    if dist.is_initialized():
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None,
            broadcast_buffers=False, find_unused_parameters=False)
    return record(cfg)


def main(cache, work_dir, kill_at):
    Config.pretty_text = ''
    weights = os.path.join(os.path.dirname(cache), 'teacher.pth')
    replace, count = os.replace, 0

    def counting(source, target):
        nonlocal count
        count += str(target).endswith('.safetensors')
        if count == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = counting
    said = []
    cached.print_log = lambda text, *args: said.append(text)
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        dist.init_process_group('gloo')
    live, cold, warm = (train(make(cache, work_dir, weights, use))[1].entries
                        for use in (False, True, True))
    assert_equal(live, cold)
    assert_equal(live, warm)
    assert said[-1].endswith('the teacher was asked for none'), said


if __name__ == '__main__':
    main(*sys.argv[1:])
