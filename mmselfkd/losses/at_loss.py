"""Attention transfer: where a map is active, whatever its channels."""

from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import (
    check_choice,
    check_not_negative,
)
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss

REDUCTIONS = ('mean', 'sum')
EPS = 1e-12


def at_loss(student: Tensor,
            teacher: Tensor,
            *,
            weight: Tensor | None = None,
            p: float = 2,
            reduction: str = 'mean') -> Tensor:
    r"""Squared difference of the normalised attention maps.

    .. math::
        L = \frac{1}{NM} \sum_{n=1}^{N} \sum_{m=1}^{M}
            (\phi^s_{nm} - \phi^t_{nm})^2, \quad
        \phi_n = \frac{a_n}{\max(\lVert a_n \rVert_2, 10^{-12})}, \quad
        a_{nm} = \frac{1}{C} \sum_{c=1}^{C} |F_{ncm}|^p

    :math:`F` (N, C, M) are features at the M = H * W positions, :math:`a_n`
    (M) is the attention map of image :math:`n` and :math:`\phi_n` (M) the
    same with unit length, or 0 for an image without any activation. The
    channels are averaged, so their numbers may differ. The scale of an image
    and the order of its channels have no effect.

    Size of the map: the sum over the positions is :math:`2 (1 - \cos)` of
    the two attention maps, from 0 to 2 for any M. With ``reduction='sum'``
    it is the value, and one weight fits every crop. ``reduction='mean'``,
    the published form, is that sum divided by M: a map enlarged to r times
    its positions by nearest neighbour has 1 / r of the value.

    FRSKD's weight of 50 belongs to 'mean' and to a sum over levels of which
    each has half the sides of the one before and the last is 4 x 4. Such a
    pyramid has the largest total

    .. math::
        50 \cdot 2 \sum_l \frac{1}{M_l} = 100 \Big(\frac{1}{16} +
        \frac{1}{64} + \ldots\Big) \approx \frac{100}{12} = \frac{25}{3},

    8.30 on four levels (CIFAR) and 8.33 on six (segmentation at 512). With
    ``reduction='sum', level_reduction='mean'`` the largest total is twice
    the weight on any pyramid, so 25 / 6 is the weight of the same total.

    With ``weight`` the attention is 0 where the weight is 0, and the mean
    over the positions is weighted; 'sum' is that mean times the number of
    positions that weigh more than 0.

    Differs from the paper: FRSKD's formula, as third parties print it, is
    the norm of the difference, neither squared nor averaged; its code is the
    mean square, as here.

    Differs from the official code: each image is first divided by its
    largest magnitude, held constant, so that no power overflows. Value and
    gradient are the same, except where :math:`\lVert a_n \rVert_2` is below
    1e-12, where the official :math:`\phi` goes to 0.

    Args:
        student (Tensor): features of the student.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        p (float): power of the magnitudes, 1 or more; the larger, the more
            the strongest positions count. Defaults to 2.
        reduction (str): 'mean' or 'sum' over the positions of an image.
            Defaults to 'mean'.

    Shape:
        - student: (N, C_s, H, W).
        - teacher: (N, C_t, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images of the mean or the sum over
        the positions.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Paying More Attention to Attention: Improving the Performance of
        Convolutional Neural Networks via Attention Transfer, ICLR 2017,
        arXiv:1612.03928. Used as here: Refine Myself by Teaching Myself:
        Feature Refinement via Self-Knowledge Distillation, CVPR 2021,
        arXiv:2103.08273, MingiJi/FRSKD (98b87e5).

    Example:
        >>> import torch
        >>> student = torch.tensor([3., 4.]).sqrt().view(1, 1, 1, 2)
        >>> teacher = torch.tensor([0., 7.]).view(1, 1, 1, 2)
        >>> round(at_loss(student, teacher).item(), 4)
        0.2
    """
    check_maps(student, teacher, same_channels=False)
    _check_arguments(p, reduction)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is not None:
            student, teacher = (
                x.masked_fill(weight == 0, 0) for x in (student, teacher))
        difference = _attention(student, p) - _attention(teacher, p)
        loss = difference.square()
        if reduction == 'sum' and weight is not None:
            loss = loss * (weight > 0).sum((1, 2, 3), keepdim=True)
        elif reduction == 'sum':
            loss = loss * loss[0].numel()
        return weighted_mean(loss, weight)


def _check_arguments(p, reduction):
    check_not_negative('p', p, least=1)
    check_choice('reduction', reduction, REDUCTIONS)


class _MeanPower(torch.autograd.Function):
    """Mean of |F / scale|^p over the channels; keeps F and no power of it."""

    @staticmethod
    def forward(ctx, features, scale, p):
        ctx.save_for_backward(features, scale)
        ctx.p = p
        powers = features / scale
        powers = powers.square_() if p == 2 else powers.abs_().pow_(p)
        return powers.mean(1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, scale = ctx.saved_tensors
        slope = features / scale
        if ctx.p != 2:
            slope = slope.sign() * slope.abs_().pow_(ctx.p - 1)
        factor = ctx.p / features.shape[1] / scale
        return slope.mul_(grad * factor), None, None


def _attention(features, p):
    """Attention maps of unit length (N, 1, H, W)."""
    # the unit length takes the scale away again, its gradient too
    values, axes = features.detach(), (1, 2, 3)
    scale = torch.maximum(
        values.amax(axes, keepdim=True), -values.amin(axes, keepdim=True))
    attention = _MeanPower.apply(features, scale.clamp(min=EPS), p)
    length = attention.norm(dim=(2, 3), keepdim=True)
    return attention / length.clamp(min=EPS)


class ATLoss(DistillationLoss):
    """Difference of the normalised attention maps: :func:`at_loss`.

    Args:
        p (float): power of the magnitudes, 1 or more. Defaults to 2.
        reduction (str): 'mean' or 'sum' over the positions of an image; the
            value of 'sum' does not depend on the size of the map. Defaults
            to 'mean'.
        level_reduction (str): 'sum' or 'mean' over the levels. Defaults to
            'sum'.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> ATLoss()(features, 3 * features.flip(1)).item() < 1e-6
        True
    """
    channels = 'any'
    takes_weight = True
    needs_positions = True

    def __init__(self,
                 p: float = 2,
                 reduction: str = 'mean',
                 level_reduction: Literal['sum', 'mean'] = 'sum'):
        super().__init__()
        _check_arguments(p, reduction)
        check_choice('level_reduction', level_reduction, REDUCTIONS)
        self.p = p
        self.reduction = reduction
        self.level_reduction = level_reduction

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a map of one position, whose attention is always 1."""
        if student[0, 0].numel() == 1:
            raise ValueError(
                'ATLoss compares where a map is active, but the map has one '
                'position; use a finer level, or MixSKDFeatureLoss or '
                "NFDLoss(dims='c') for vectors")

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`at_loss`."""
        return at_loss(
            student, teacher, weight=weight, p=self.p,
            reduction=self.reduction)
