"""What is built for distillation must not move the student's random stream."""
import random
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved():
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
def tame(model: nn.Module) -> None:
    """Bound parameters that nobody has initialised yet.

    Some modules leave that to ``init_weights``; until then these hold
    whatever the memory held, NaN included.
    """
    for parameter in model.parameters():
        parameter.nan_to_num_(nan=0.0).clamp_(-10, 10)
