"""What is built for distillation must not move the student's random stream."""
import random
from contextlib import contextmanager

import numpy as np
import torch


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
