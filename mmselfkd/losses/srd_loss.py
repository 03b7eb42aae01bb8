"""Semantic representational distillation: the teacher's classifier judges."""
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_not_negative
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    masked_mean,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss
from .discriminator import InputNorm


def srd_loss(student: Tensor,
             teacher: Tensor,
             *,
             weight: Tensor | None = None,
             classifier: Callable[[Tensor], Tensor],
             statistics: float = 1.0) -> Tensor:
    r"""Difference of what the teacher's classifier says of both features.

    .. math::
        L = \frac{1}{NKHW} \sum_{n,k,h,w}
            \big(W(F^s)_{nkhw} - W(F^t)_{nkhw}\big)^2
          + \lambda \frac{1}{NC} \sum_{n,c}
            (\bar F^s_{nc} - \bar F^t_{nc})^2

    :math:`F` (N, C, H, W) are the features in front of the classifier
    :math:`W` of the teacher, which gives K class scores at each position and
    is frozen, and :math:`\bar F_{nc}` is the mean of a channel over the
    positions of an image. The first term has the square of the unit of the
    scores, the second that of the features.

    Masks: padding and ``foreground`` by ``weight``, whose mean over the
    positions of an image the first term is; the means of the second are
    those of the positions that weigh more than 0. Ignored pixels take part:
    neither side depends on labels.

    Differs from the paper: that one has one vector of features per image;
    here each position is one.

    Differs from the official code: its second term, which the paper of the
    method does not name, has the weight 1, or 10 for ShuffleNet.

    Args:
        student (Tensor): features of the student, in the space of the
            teacher's.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        classifier (Callable): gives the class scores (N, K, H, W) of
            features (N, C, H, W); its parameters should need no gradient.
        statistics (float): weight of the second term. Defaults to 1.0.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the sum of both means.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Knowledge Distillation Meets Open-Set Semi-Supervised Learning,
        arXiv:2205.06701, jingyang2017/SRD_ossl (d295cd8).

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
        >>> teacher = torch.tensor([1., 1.]).view(1, 1, 1, 2)
        >>> srd_loss(student, teacher, classifier=lambda x: 2 * x).item()
        9.0
    """
    check_maps(student, teacher)
    check_not_negative('statistics', statistics)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        mask = None if weight is None else weight > 0
        if mask is not None:
            student, teacher = (
                x.masked_fill(~mask, 0) for x in (student, teacher))
        ours, theirs = classifier(student), classifier(teacher).detach()
        loss = F.mse_loss(ours, theirs) if weight is None else weighted_mean(
            (ours - theirs).square(), weight)
        if statistics:
            loss = loss + statistics * F.mse_loss(
                masked_mean(student, (2, 3), mask),
                masked_mean(teacher, (2, 3), mask))
        return loss


class SRDLoss(DistillationLoss):
    """Both features through the teacher's classifier: :func:`srd_loss`.

    The student's map goes through a connector first: a 1x1 convolution, a
    norm by the statistics of the batch (of all ranks with ``sync_ranks``)
    and a ReLU, as the features of the teacher come out of one. It is made at
    the first call, or by :meth:`build`, is trained along with the student
    and computes in float32, without autocast. Padding is 0 in its input.

    Args:
        statistics (float): weight of the difference of the channel means.
            Defaults to 1.0.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> classifier = torch.nn.Conv2d(8, 3, 1).requires_grad_(False)
        >>> student, teacher = torch.rand(2, 4, 6, 6), torch.rand(2, 8, 6, 6)
        >>> loss = SRDLoss()
        >>> loss(student, teacher, classifier=classifier).backward()
        >>> loss.connector.weight.grad.shape
        torch.Size([8, 4, 1, 1])
    """
    channels = 'any'
    takes_weight = True
    connector: Any  # None until build()
    norm: Any
    needs_classifier = True

    def __init__(self, statistics: float = 1.0):
        super().__init__()
        check_not_negative('statistics', statistics)
        self.statistics = statistics
        self.register_module('connector', None)
        self.register_module('norm', None)

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make the connector, anew if there was one."""
        self.connector = nn.Conv2d(
            student.shape[1], teacher.shape[1], 1, bias=False)
        nn.init.kaiming_normal_(self.connector.weight, mode='fan_out',
                                nonlinearity='relu')
        self.norm = InputNorm(teacher.shape[1])
        self.to(student.device)

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None,
                classifier: Callable[[Tensor], Tensor]) -> Tensor:
        """See :func:`srd_loss`."""
        check_maps(student, teacher, same_channels=False)
        if self.connector is None:
            self.build(student, teacher, None)
        with autocast_off(student):
            student, teacher = full_precision(student, teacher)
            if weight is not None:
                normalise_weight(weight, student)  # checks the shape
                student = student.masked_fill(weight == 0, 0)
            student = self.connector(student.to(self.connector.weight.dtype))
            student = F.relu(self.norm(student, self.sync_ranks))
            return srd_loss(
                student, teacher, weight=weight, classifier=classifier,
                statistics=self.statistics)
