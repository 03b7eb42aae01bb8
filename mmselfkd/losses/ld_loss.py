"""LD: the distributions of box sides, where boxes are learnt."""
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import (
    check_integer_or_none,
    check_not_negative,
    check_positive,
)
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    softmax_divergence,
)
from .base import DistillationLoss

SIDES = 4


def ld_loss(student: Tensor,
            teacher: Tensor,
            *,
            regions: Tensor,
            score: Tensor | None = None,
            temperature: float = 10.0,
            vlr: float = 1.0) -> Tensor:
    r"""Divergence of the distributions of box sides, in two regions.

    .. math::
        L = \frac{T^2}{N} \sum_{n,p}
            \big(R^{main}_{np} s_{np} + \omega R^{vlr}_{np}\big)
            \frac{1}{4} \sum_{e=1}^{4} \sum_b
            q^t_{nepb} \log \frac{q^t_{nepb}}{q^s_{nepb}}, \quad
        q = \mathrm{softmax}_b(z / T)

    :math:`z` (N, 4, B, P) are the scores of the B bins of each side of a box
    at the P = H W positions. :math:`R` are the main region and the valuable
    localisation region around it, 1 through the positions of the region of
    an image over all levels and 0 elsewhere, so that the sum over the levels
    is a mean over the region. :math:`s` is the student's largest class
    probability at a position, and :math:`\omega` is ``vlr``. The value has
    no unit.

    Masks: by the regions alone, in which there is no padding. Ignored pixels
    do not exist in boxes.

    Differs from the paper: each position of the main region is weighted by
    the student's score, as in the code, and both terms are means over their
    regions, where the paper has sums.

    Differs from the official code: that one has the mean over the bins, 1 /
    B of this sum, and is not divided by the number of positions, so it
    grows with the objects of a batch: its weight of 0.25 is 0.25 / 17 times
    the positions of the main region in the batch on this one, and a quarter
    of that on the valuable one. There each position of the valuable region
    is weighted by the IoU of its anchor, which is in no equation of the
    paper, and positions of the main region may be in it as well.

    Args:
        student (Tensor): scores of the bins, side by side.
        teacher (Tensor): those of the teacher; detached here.
        regions (Tensor): main and valuable region.
        score (Tensor, optional): weight of a position of the main region;
            detached here. None: 1. Defaults to None.
        temperature (float): divides both scores. Defaults to 10.0.
        vlr (float): weight of the valuable region. Defaults to 1.0.

    Shape:
        - student, teacher: (N, 4 * B, H, W).
        - regions: (N, 2, H, W).
        - score: (N, 1, H, W).

    Returns:
        Tensor: scalar, 0 where both regions are empty.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Localization Distillation for Dense Object Detection, CVPR 2022,
        arXiv:2102.12252, HikariTJU/LD.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 8, 1, 1)
        >>> teacher = torch.tensor([0.75, 0.25] * 4).log().view(1, 8, 1, 1)
        >>> regions = torch.tensor([1., 0.]).view(1, 2, 1, 1)
        >>> round(ld_loss(student, teacher, regions=regions,
        ...               temperature=1.0).item(), 4)
        0.1308
    """
    check_maps(student, teacher)
    _check_arguments(temperature, vlr)
    shape = (len(student), 2, *student.shape[2:])
    if regions.shape != shape:
        raise ValueError(f'regions must have shape {shape}, but got '
                         f'{tuple(regions.shape)}')
    if student.shape[1] % SIDES:
        raise ValueError(f'the channels must be those of {SIDES} sides, but '
                         f'got {student.shape[1]}')
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        main, valuable = regions.detach().to(student).unbind(1)
        if score is not None:
            main = main * score.detach().to(student)[:, 0]
        weight = main + vlr * valuable
        divergence = softmax_divergence(
            student.unflatten(1, (SIDES, -1)),
            teacher.unflatten(1, (SIDES, -1)), 2, temperature).mean((1, 2))
        divergence = divergence.masked_fill(weight == 0, 0)
        return temperature**2 * (weight * divergence).sum() / len(student)


def _check_arguments(temperature, vlr):
    check_positive('temperature', temperature)
    check_not_negative('vlr', vlr)


class LDLoss(DistillationLoss):
    """Distributions of box sides where boxes are learnt: :func:`ld_loss`.

    The student's levels are those of its box sides; where as many levels of
    class scores (of a sigmoid) follow, their largest probability is the
    weight of a position of the main region.

    Args:
        temperature (float): divides the scores of the bins. Defaults to
            10.0.
        vlr (float): weight of the valuable region. Defaults to 1.0.
        bins (int, optional): of a side. None: those of the student's head,
            or a quarter of the channels without a run. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> regions = torch.ones(2, 2, 3, 3) / 9
        >>> sides = torch.rand(2, 4 * 17, 3, 3)
        >>> LDLoss()(sides, sides, regions=regions).item()
        0.0
    """
    channels = 'distributions'
    level_reduction = 'sum'
    needs_regions = True
    needs_positions = True

    def __init__(self, temperature: float = 10.0, vlr: float = 1.0,
                 bins: int | None = None):
        super().__init__()
        _check_arguments(temperature, vlr)
        check_integer_or_none('bins', bins, minimum=2)
        self.temperature = temperature
        self.vlr = vlr
        self.bins = bins

    def pair_levels(
            self, student: Sequence[Tensor],
            teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Box sides with those of the teacher, the best score behind them."""
        count = len(teacher)
        if len(student) == 2 * count:
            student = [
                torch.cat([sides, scores.detach().amax(1, keepdim=True)], 1)
                for sides, scores in zip(student[:count], student[count:])]
        return super().pair_levels(student, teacher)

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                regions: Tensor) -> Tensor:
        """See :func:`ld_loss`; class scores may follow in ``student``."""
        count = SIDES * self.bins if self.bins else teacher.shape[1]
        score = None
        if student.ndim == 4 and student.shape[1] > count:
            score = student.detach()[:, count:].amax(
                1, keepdim=True).float().sigmoid()
            student = student[:, :count]
        return ld_loss(
            student, teacher, regions=regions, score=score,
            temperature=self.temperature, vlr=self.vlr)
