"""Channel-wise distillation: where in the image a channel is active."""
import math

import torch.nn.functional as F
from torch import Tensor

from ..checks import check_integer_or_none, check_positive
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    weight_of_valid,
)
from .base import DistillationLoss
from .kd_loss import check_ignore_index


def cwd_loss(student: Tensor,
             teacher: Tensor,
             *,
             label: Tensor | None = None,
             weight: Tensor | None = None,
             temperature: float = 4.0,
             ignore_index: int | None = None) -> Tensor:
    r"""Kullback-Leibler divergence of each channel over the positions.

    .. math::
        L = \frac{T^2}{N C} \sum_{n=1}^{N} \sum_{c=1}^{C} \sum_{m=1}^{HW}
            p^t_{n,c,m} (\log p^t_{n,c,m} - \log p^s_{n,c,m}), \quad
        p_{n,c} = \mathrm{softmax}_m(F_{n,c} / T)

    :math:`F_{n,c}` (H * W) is channel :math:`c` of the features or the
    logits of image :math:`n`, :math:`p_{n,c}` (H * W) a distribution over
    its positions and :math:`T` the temperature. A constant added to a
    channel has no effect. Maps of any size have values of one scale.

    Masks: padding and ``foreground`` by ``weight``, and with
    ``ignore_index`` the ignored pixels. The softmax counts a position as
    often as it weighs, :math:`p_{n,c,m} \propto w_{n,m} \exp(F_{n,c,m} / T)`.
    An image of weight 0 has the value 0.

    Differs from the paper: in nothing that is known; it has no masks.

    Differs from the official code: that one takes the logarithm of the
    softmax, which underflows. Value and gradient are the same otherwise.
    Other codes with this name divide by the channels of the student in
    front of its adapter (multiply their weight by C_t / C_s), or leave out
    the entropy of the teacher (same gradient).

    Args:
        student (Tensor): features or logits of the student, after an adapter
            where its channels differ from the teacher's.
        teacher (Tensor): those of the teacher; detached here.
        label (Tensor, optional): integer class labels, of any size; resized
            to the maps by nearest neighbour. Defaults to None.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        temperature (float): divides both maps. Defaults to 4.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to None.

    Shape:
        - student, teacher: (N, C, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over images and channels (a sum over the
        positions).

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
        arXiv:2011.13256, irfanICMLL/TorchDistiller (78bac7c).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 1, 1, 2)
        >>> teacher = torch.tensor([0.75, 0.25]).log().view(1, 1, 1, 2)
        >>> round(cwd_loss(student, teacher, temperature=1.0).item(), 4)
        0.1308
    """
    check_maps(student, teacher)
    check_positive('temperature', temperature)
    check_integer_or_none('ignore_index', ignore_index)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = weight_of_valid(student, label, ignore_index, weight)
        student, teacher = (
            x.flatten(2) / temperature for x in (student, teacher))
        if weight is None:
            student, teacher = (
                F.log_softmax(x, dim=2) for x in (student, teacher))
        else:
            student, teacher = _weighted_log_softmax(
                student, teacher, weight.flatten(2))
        loss = F.kl_div(student, teacher, reduction='sum', log_target=True)
        return loss * (temperature**2 / (student.shape[0] * student.shape[1]))


def _weighted_log_softmax(student, teacher, weight):
    """Log of both; of what weighs 0 a constant, so that it says nothing."""
    left_out = weight == 0
    # an image of weight 0 stays finite by a softmax over all of it
    is_empty = left_out.all(2, keepdim=True)
    shift = weight.log().masked_fill(is_empty, 0)
    for maps in (student, teacher):
        # what lies there may be anything, but not infinite
        maps = maps.masked_fill(left_out & ~is_empty, -math.inf)
        yield F.log_softmax(maps + shift, dim=2).masked_fill(left_out, 0)


class CWDLoss(DistillationLoss):
    """Where in the image each channel is active: :func:`cwd_loss`.

    Args:
        temperature (float): divides both maps. Defaults to 4.0.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every pixel takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> CWDLoss()(logits, logits + 1).item() < 1e-6
        True
    """
    channels = 'adapt'
    takes_weight = True
    needs_positions = True

    def __init__(self,
                 temperature: float = 4.0,
                 ignore_index: int | str | None = None):
        super().__init__()
        check_positive('temperature', temperature)
        check_ignore_index(ignore_index)
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.needs_label = ignore_index is not None

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a map of one position, over which the softmax is 1."""
        if student[0, 0].numel() == 1:
            raise ValueError(
                'CWDLoss takes a softmax over the positions, but the map has '
                'one; use a finer level, or KDLoss for class scores')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`cwd_loss`."""
        return cwd_loss(
            student, teacher, label=label, weight=weight,
            temperature=self.temperature, ignore_index=self.ignored_label)
