"""What makes a student's and a teacher's maps comparable."""
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def build_adapters(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
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


def split_anchors(scores: torch.Tensor, anchors: int) -> torch.Tensor:
    """Class scores of every anchor as maps of their own.

    Args:
        scores (Tensor): (N, anchors * K, H, W), anchor by anchor.
        anchors (int): How many there are at a position.

    Returns:
        Tensor: (N * anchors, K, H, W).
    """
    return scores.unflatten(1, (anchors, -1)).flatten(0, 1)


@torch.no_grad()
def match_queries(student: torch.Tensor, teacher: torch.Tensor,
                  is_sigmoid: bool) -> torch.Tensor:
    """The teacher's queries in the order of the student's.

    Queries have no order that two detectors share. Each of the student is
    given another one of the teacher so that the squared distances of their
    class probabilities sum to the least (Hungarian method, image by image).

    Args:
        student (Tensor): Class logits (N, K, Q, 1).
        teacher (Tensor): Class logits (N, K, Q', 1), Q' >= Q.
        is_sigmoid (bool): How logits become probabilities.

    Returns:
        Tensor: The teacher's logits (N, K, Q, 1).
    """
    from scipy.optimize import linear_sum_assignment  # mmdet brings it

    s, t = (x.squeeze(3).transpose(1, 2).float() for x in (student, teacher))
    s, t = (x.sigmoid() if is_sigmoid else x.softmax(2) for x in (s, t))
    costs = torch.cdist(s, t).square().nan_to_num().cpu().numpy()
    order = [linear_sum_assignment(cost)[1] for cost in costs]
    return torch.stack([
        x[:, torch.from_numpy(i).to(x.device)]
        for x, i in zip(teacher, order)])
