"""Random numbers: the student's stay its own, ours can be made again."""
import random
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
               ] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@torch.no_grad()
def bound_parameters(model: nn.Module) -> None:
    """Make parameters that nobody has initialised finite and small.

    Some modules leave that to ``init_weights``; until then these hold
    whatever the memory held, NaN included.
    """
    for parameter in model.parameters():
        parameter.nan_to_num_(nan=0.0).clamp_(-10, 10)
