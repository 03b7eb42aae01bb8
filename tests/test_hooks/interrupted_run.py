"""A run that kills itself: WORK_DIR, where to stop, resume or not."""
import os
import signal
import sys

import torch
from helpers import NO_DROPOUT, keep_order
from mmengine.hooks import Hook
from tiny_runs import build, config


class Kill(Hook):
    """SIGKILL after some iteration, or half way through its checkpoint."""

    priority = 'VERY_HIGH'

    def __init__(self, moment, iteration):
        self.moment, self.iteration = moment, iteration
        self.save = torch.save

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        if runner.iter + 1 != self.iteration:
            return
        if self.moment == 'step':
            os.kill(os.getpid(), signal.SIGKILL)
        torch.save = self.save_half

    def save_half(self, checkpoint, file, *args, **kwargs):
        self.save(checkpoint, file, *args, **kwargs)
        content = file.getvalue()
        path = os.path.join(sys.argv[1], f'iter_{self.iteration}.pth')
        with open(path, 'wb') as half:
            half.write(content[:len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def main(work_dir, moment, iteration, resume):
    cfg = config(
        work_dir,
        dict(type='mmselfkd.FRSKDHook',
             teacher=dict(type='SelfTeacher', head=dict(
                 type='SegformerHead', dropout_ratio=0.)),
             losses=dict(loss_at=dict(schedule=None))),
        iters=5, resume=resume == 'resume',
        **{'train_dataloader.batch_size': 8}, **NO_DROPOUT)
    keep_order(cfg)
    runner = build(cfg)
    runner.register_hook(Kill(moment, int(iteration)))
    runner.train()


if __name__ == '__main__':
    main(*sys.argv[1:])
