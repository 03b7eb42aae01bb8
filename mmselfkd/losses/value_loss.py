"""Maps of values, such as depth or box offsets, compared number by number."""
from torch import Tensor

from ..checks import check_choice, check_not_negative, check_positive
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss

MODES = ('l1', 'log_l1', 'scale_invariant')


def value_loss(student: Tensor,
               teacher: Tensor,
               *,
               weight: Tensor | None = None,
               mode: str = 'l1',
               balance: float = 0.5,
               least: float = 1e-3) -> Tensor:
    r"""Difference of two maps of values.

    With :math:`d = s - t` for ``mode='l1'``, and
    :math:`d = \log \max(s, \epsilon) - \log \max(t, \epsilon)` for the other
    two,

    .. math::
        L_{l1} = L_{log} = \frac{1}{NCM} \sum_{n,c,m} |d_{ncm}|, \quad
        L_{si} = \frac{1}{NC} \sum_{n,c} \Big(
            \frac{1}{M} \sum_m d_{ncm}^2
            - \lambda \big(\frac{1}{M} \sum_m d_{ncm}\big)^2 \Big)

    :math:`s` and :math:`t` (N, C, M) are the values at the M = H * W
    positions, :math:`\epsilon` is ``least`` and :math:`\lambda` the
    ``balance``. With ``weight`` the means over the positions of an image are
    weighted ones.

    - ``'l1'`` is for values of any sign, such as box offsets. It has their
      unit.
    - ``'log_l1'`` is for positive values such as depth: it compares ratios,
      so it has no unit and near and far count alike.
    - ``'scale_invariant'`` forgives, at ``balance=1``, a factor between the
      two maps of an image. At 0 it is the mean square of the log ratios.

    Differs from the paper: a teacher's map stands in place of the measured
    depth. Values below ``least`` count as ``least``, so that the logarithm
    is finite; they get no gradient.

    Differs from the official code: it was not read.

    Args:
        student (Tensor): values of the student.
        teacher (Tensor): values of the teacher; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        mode (str): 'l1', 'log_l1' or 'scale_invariant'. Defaults to 'l1'.
        balance (float): of 'scale_invariant', from 0 to 1. Defaults to 0.5,
            the paper's.
        least (float): smallest value of the two log modes, above 0. Defaults
            to 1e-3.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images and the channels.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Depth Map Prediction from a Single Image using a Multi-Scale Deep
        Network, NIPS 2014, arXiv:1406.2283 (equation 4).

    Example:
        >>> import torch
        >>> student = torch.tensor([2., 4.]).view(1, 1, 1, 2)
        >>> teacher = torch.tensor([1., 2.]).view(1, 1, 1, 2)
        >>> value_loss(student, teacher).item()
        1.5
        >>> loss = value_loss(student, teacher, mode='scale_invariant',
        ...                   balance=1.0)
        >>> round(loss.item(), 6)
        0.0
    """
    check_maps(student, teacher)
    _check_arguments(mode, balance, least)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is not None:  # what is left out may be any number
            student, teacher = (
                x.masked_fill(weight == 0, 1) for x in (student, teacher))
        if mode != 'l1':
            student, teacher = (
                x.clamp(min=least).log() for x in (student, teacher))
        difference = student - teacher
        if mode != 'scale_invariant':
            return weighted_mean(difference.abs(), weight)
        if weight is None:
            mean = difference.mean((2, 3), keepdim=True)
        else:
            mean = (difference * weight).sum((2, 3), keepdim=True)
        # mean(d^2) - mean(d)^2 without the cancellation
        spread = weighted_mean((difference - mean).square(), weight)
        return spread + (1 - balance) * mean.square().mean()


def _check_arguments(mode, balance, least):
    check_choice('mode', mode, MODES)
    check_not_negative('balance', balance, most=1)
    check_positive('least', least)


class ValueLoss(DistillationLoss):
    """Difference of two maps of values: :func:`value_loss`.

    Args:
        mode (str): 'l1', 'log_l1' or 'scale_invariant'. Defaults to 'l1'.
        balance (float): of 'scale_invariant', from 0 to 1. Defaults to 0.5.
        least (float): smallest value of the two log modes, above 0. Defaults
            to 1e-3.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> depth = 1 + torch.rand(2, 1, 8, 16)
        >>> ValueLoss(mode='log_l1')(depth, depth).item()
        0.0
    """
    channels = 'equal'
    takes_weight = True

    def __init__(self,
                 mode: str = 'l1',
                 balance: float = 0.5,
                 least: float = 1e-3):
        super().__init__()
        _check_arguments(mode, balance, least)
        self.mode = mode
        self.balance = balance
        self.least = least
        self.needs_positions = mode == 'scale_invariant' and balance == 1

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logarithms of negative values, and a map of one position."""
        if self.needs_positions and student[0, 0].numel() == 1:
            raise ValueError(
                "ValueLoss(mode='scale_invariant', balance=1) compares "
                'positions, but the map has one; use a smaller balance or a '
                'finer level')
        for name, maps in (('student', student), ('teacher', teacher)):
            if self.mode != 'l1' and (maps < 0).any():
                raise ValueError(
                    f'ValueLoss(mode={self.mode!r}) takes logarithms, but the '
                    f"{name}'s map has values below 0; use mode='l1'")

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`value_loss`."""
        return value_loss(
            student, teacher, weight=weight, mode=self.mode,
            balance=self.balance, least=self.least)
