"""Random numbers: the student's stay its own, ours can be made again."""
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()
               ] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def derived(*parts: int | str) -> Iterator[None]:
    """Draw numbers that follow from ``parts`` alone; then go on as before.

    So a loss, a teacher or a discriminator draws the same numbers in a run
    that was resumed, and the student draws what it would draw without them.

    Args:
        parts (int | str): Such as seed, rank, iteration and name.
    """
    with preserved():
        set_generators(*parts)
        yield


def set_generators(*parts: int | str) -> None:
    """Let Python's, NumPy's and torch's generators follow from ``parts``.

    Args:
        parts (int | str): Such as seed, rank, iteration and name.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part
             for part in parts]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    # not torch.manual_seed, which takes half a millisecond without a GPU
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@torch.no_grad()
def bound_parameters(model: nn.Module) -> None:
    """Make parameters that nobody has initialised finite and small.

    Some modules leave that to ``init_weights``; until then these hold
    whatever the memory held, NaN included.
    """
    for parameter in model.parameters():
        parameter.nan_to_num_(nan=0.0).clamp_(-10, 10)
