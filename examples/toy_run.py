"""A short training run on the toy data, for the examples beside this file.

In a project of your own these are your config and your ``train.py``.
"""
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

import mmselfkd  # noqa: F401  registers the hooks

TOY = Path(__file__).resolve().parent.parent / 'configs' / 'toy'
STUDENT = str(TOY / 'fpn_r18-w8_1xb8-1k_toy-64x64.py')
# four times as wide, and with `checkpoint='random'` not trained: a run of
# seconds shows that something is taught, not that it helps
UNTRAINED = dict(
    config=str(TOY / 'fpn_r18-w32_1xb8-1k_toy-64x64.py'), checkpoint='random')


def train(work_dir: str, hook: dict, **changes: Any) -> Runner:
    """Train a small segmentation network for ten iterations.

    Args:
        work_dir (str): Where the checkpoint goes.
        hook (dict): What you would add to ``custom_hooks`` of your config.
        changes: Of other keys of the config.

    Returns:
        Runner: After the training.
    """
    cfg = Config.fromfile(STUDENT)
    cfg.merge_from_dict(dict(
        work_dir=work_dir,
        custom_hooks=[hook],
        train_dataloader=dict(batch_size=4),
        train_cfg=dict(max_iters=10),
        param_scheduler=[],  # a constant learning rate
        val_cfg=None, val_dataloader=None, val_evaluator=None,
        default_hooks=dict(
            logger=dict(interval=1), checkpoint=dict(interval=10)),
        randomness=dict(seed=0),
        log_level='WARNING'))
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    print(f'{"logged as":30} {"first":>10} {"last":>10}')
    for name, values in runner.message_hub.log_scalars.items():
        if 'loss' in name or 'distill.' in name:
            values = values.data[0]
            print(f'{name:30} {values[0]:10.4f} {values[-1]:10.4f}')
    print(f'saved: {work_dir}/iter_10.pth')
    return runner
