"""Normalised feature distillation."""

import math

import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_positive
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    masked_mean,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss

DIMS = {'hw': (2, 3), 'nhw': (0, 2, 3), 'c': (1, ), 'chw': (1, 2, 3)}


def nfd_loss(student: Tensor,
             teacher: Tensor,
             *,
             weight: Tensor | None = None,
             dims: str = 'hw',
             eps: float = 1e-5) -> Tensor:
    r"""Mean squared difference of standardised features.

    .. math::
        L = \frac{1}{NCHW} \sum_{n,c,h,w}
            (\hat F^s_{nchw} - \hat F^t_{nchw})^2, \quad
        \hat F = \frac{F - \mathrm{mean}_d(F)}
                      {\sqrt{\mathrm{var}_d(F) + \epsilon}}

    :math:`F` (N, C, H, W) are features; mean and biased variance are taken
    over the axes :math:`d` = ``dims``, separately for student and teacher. A
    shift and a positive scale of the student along these axes have no
    effect, so the student need not copy the magnitude of the teacher. With
    'hw' and a small eps the loss is the mean over (n, c) of 2 * (1 - r),
    where r is Pearson's correlation of the two maps.

    With ``weight`` the statistics are those of the positions that weigh more
    than 0, and the mean over the positions of an image is weighted. Of
    several levels :class:`NFDLoss` is the mean.

    Differs from the paper: its body could not be read. Two other groups that
    cite it use the axes 'hw'; they take the root of the sum of squares over
    the whole batch, which depends on its size, the unbiased standard
    deviation and no eps. The mean squared error and eps are ours.

    Differs from the official code: none is known.

    Args:
        student (Tensor): features of the student, after an adapter where its
            channels differ from the teacher's.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        dims (str): axes of the statistics: 'hw', 'nhw', 'c' or 'chw'.
            Defaults to 'hw'.
        eps (float): added to the variance. Defaults to 1e-5.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over all elements.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Normalized Feature Distillation for Semantic Segmentation,
        arXiv:2207.05256 (no official code found).

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
        >>> round(nfd_loss(student, -student).item(), 4)
        4.0
    """
    check_maps(student, teacher)
    _check_arguments(dims, eps)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is None:
            return F.mse_loss(_standardise(student, DIMS[dims], eps),
                              _standardise(teacher, DIMS[dims], eps))
        mask = weight > 0
        student = _standardise_where(mask, student, DIMS[dims], eps)
        teacher = _standardise_where(mask, teacher, DIMS[dims], eps)
        return weighted_mean((student - teacher).square(), weight)


def _check_arguments(dims, eps):
    check_choice('dims', dims, tuple(DIMS))
    check_positive('eps', eps)


def _standardise(maps, axes, eps):
    """Standardised maps with ``axes`` moved behind the others."""
    others = [axis for axis in range(maps.ndim) if axis not in axes]
    maps = maps.permute(*others, *axes)
    inner = tuple(range(len(others), maps.ndim))
    # the mean of a large constant map is off by a rounding error, which its
    # tiny variance would blow up: layer_norm takes away what is left here
    maps = maps - maps.mean(inner, keepdim=True)
    return F.layer_norm(maps, maps.shape[len(others):], eps=eps)


def _standardise_where(mask, maps, axes, eps):
    """The same by the statistics of where the mask is set, axes in place."""
    for _ in range(2):  # for the rounding error
        maps = maps - masked_mean(maps, axes, mask)
    return maps / (masked_mean(maps.square(), axes, mask) + eps).sqrt()


class NFDLoss(DistillationLoss):
    """Difference of standardised features: :func:`nfd_loss`.

    Args:
        dims (str): axes of the statistics: 'hw', 'nhw', 'c' or 'chw'.
            Defaults to 'hw'.
        eps (float): added to the variance. Defaults to 1e-5.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> NFDLoss()(features, 3 * features + 1).item() < 1e-6
        True
    """
    channels = 'adapt'
    takes_weight = True

    def __init__(self, dims: str = 'hw', eps: float = 1e-5):
        super().__init__()
        _check_arguments(dims, eps)
        self.dims = dims
        self.eps = eps
        self.needs_positions = dims == 'hw'

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse statistics over one or two numbers.

        One number standardised is 0, and two are -1 and 1.
        """
        count = math.prod(student.shape[axis] for axis in DIMS[self.dims])
        if count < 3:
            others = [dims for dims, axes in DIMS.items() if math.prod(
                student.shape[axis] for axis in axes) > 2]
            raise ValueError(
                f'NFDLoss(dims={self.dims!r}) standardises {count} '
                f'number{"s"[:count - 1]} at a time in maps of shape '
                f'{tuple(student.shape)}, and the result is constant; use '
                + ' or '.join(['a finer level', *(
                    f'dims={dims!r}' for dims in others)]))

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`nfd_loss`."""
        return nfd_loss(
            student, teacher, weight=weight, dims=self.dims, eps=self.eps)
