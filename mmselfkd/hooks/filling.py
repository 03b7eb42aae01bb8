"""Asks cached teachers everything that a training run will ask them."""
import time
from typing import Any

import torch
from mmengine.dist import barrier, get_rank, get_world_size
from torch.utils.data import DataLoader

from ..distillation import joined
from ..errors import ConfigError
from ..hosts import host_of
from ..teachers import BatchContext, CachedTeacher
from .distill_hook import DistillHook
from .setup import batch_size, length, make_run, unwrapped

INTERVAL = 10  # seconds between two lines of progress


@torch.no_grad()
def fill_caches(runner: Any) -> list[CachedTeacher]:
    """Ask for every sample in every view whose answer is not stored yet.

    In batches of the size of the training's, so that the answers are what it
    would store. Each rank asks for its share. Nothing is trained.

    Args:
        runner (Runner): Built, and not trained yet.

    Returns:
        list[CachedTeacher]: Those that were asked.

    Raises:
        ConfigError: No teacher has a ``cache``, or it cannot work.
    """
    loader = runner.train_loop.dataloader  # builds both
    if isinstance(runner.optim_wrapper, dict):
        runner.optim_wrapper = runner.build_optim_wrapper(
            runner.optim_wrapper)
    plans = [hook.plan for hook in runner.hooks
             if isinstance(hook, DistillHook)]
    for plan in plans:
        plan.resolve(*length(runner))
    if not any(cfg.get('cache') for plan in plans
               for _, cfg in plan.used_teachers.values()):
        raise ConfigError(
            'custom_hooks: no teacher of a distillation hook has `cache`; '
            'write teacher=dict(config=..., checkpoint=..., '
            'cache=dict(dir=...))')
    run = make_run(runner, joined(plans))
    try:
        teachers = [teacher for teacher in run.teachers.values()
                    if isinstance(teacher, CachedTeacher)]
        for line in run.describe():
            runner.logger.info(line)
        for teacher in teachers:
            teacher.asks_whole_batches = True
        _fill(runner, loader, teachers)
    finally:
        run.close()
    barrier()
    for teacher in teachers:
        runner.logger.info(f'{teacher.key}.cache: {teacher.told()}')
    return teachers


def _fill(runner: Any, loader: Any, teachers: list[CachedTeacher]) -> None:
    dataset = loader.dataset
    size = batch_size(loader) or 1
    total = dataset.size * dataset.views
    missing = [index for index in range(total) if not all(
        teacher.has(dataset.locate(index)) for teacher in teachers)]
    share = missing[get_rank()::get_world_size()]
    batches = [share[i:i + size] for i in range(0, len(share), size)]
    if batches:  # a batch of fewer images could differ in the last bits
        short = size - len(batches[-1])
        batches[-1] += [i % total for i in range(short)]
    student: Any = unwrapped(runner.model)
    data = DataLoader(
        dataset, batch_sampler=batches, num_workers=loader.num_workers,
        collate_fn=loader.collate_fn, pin_memory=loader.pin_memory)
    progress = _Progress(runner.logger, len(share))
    for batch, indices in zip(data, batches):
        inputs, samples = host_of(student).unpack(
            student.data_preprocessor(batch, True))
        context = BatchContext(student, inputs, samples, batch_size=size)
        with runner.optim_wrapper.optim_context(runner.model):
            for teacher in teachers:
                teacher.teach(context, None)
        if all(teacher.stopped for teacher in teachers):
            return
        progress.add(len(indices))


class _Progress:
    """Says now and then how far it is, and when it will be done.

    Args:
        logger (MMLogger): Where to.
        total (int): Of what is to be done.
    """

    def __init__(self, logger: Any, total: int) -> None:
        self._logger, self._total, self._count = logger, total, 0
        self._begin = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._count = min(self._count + count, self._total)
        now = time.monotonic()
        if now - self._last < INTERVAL and self._count < self._total:
            return
        self._last, rate = now, self._count / (now - self._begin)
        left = (self._total - self._count) / rate
        self._logger.info(
            f'{self._count:,} of {self._total:,} answers of this rank, '
            f'{rate:.1f} a second, {left / 60:.0f} minutes left')
