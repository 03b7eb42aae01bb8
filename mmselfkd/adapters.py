"""Channel and size adapters between a student's and a teacher's maps."""
from typing import Sequence, Tuple

import torch
from torch import nn
from torch.nn import functional as F


def build_adapters(pairs: Sequence[Tuple[torch.Tensor, torch.Tensor]]
                   ) -> nn.ModuleList:
    """One module a level: a 1x1 convolution where the channels differ.

    Args:
        pairs (Sequence[tuple]): Levels of the student (N, C_s, H, W) and of
            the teacher (N, C_t, H', W').

    Returns:
        nn.ModuleList: ``Conv2d(C_s, C_t, 1)`` or ``Identity`` per level.
    """
    return nn.ModuleList(
        nn.Identity() if s.shape[1] == t.shape[1] else nn.Conv2d(
            s.shape[1], t.shape[1], kernel_size=1, device=s.device)
        for s, t in pairs)


def resize_like(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """The teacher's map at the student's size, bilinear where they differ."""
    size = student.shape[2:]
    if teacher.shape[2:] == size:
        return teacher
    return F.interpolate(
        teacher, size=size, mode='bilinear', align_corners=False)
