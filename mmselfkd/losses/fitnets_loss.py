"""FitNets: the student's features are those of the teacher."""
import torch.nn.functional as F
from torch import Tensor

from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss


def fitnets_loss(student: Tensor,
                 teacher: Tensor,
                 *,
                 weight: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the features.

    .. math::
        L = \frac{1}{NCHW} \sum_{n,c,h,w} (r(F^s)_{nchw} - F^t_{nchw})^2

    :math:`F` (N, C, H, W) are features and :math:`r` the regressor that
    gives the student the channels of the teacher: in a run the 1x1 adapter,
    so ``student`` is :math:`r(F^s)`. The value has the square of the unit of
    the teacher's features.

    Masks: padding and ``foreground`` by ``weight``, whose mean over the
    positions of an image it is. Ignored pixels take part: the features of
    the teacher do not depend on labels.

    Differs from the paper: that one has half of the sum over the elements of
    an image, CHW / 2 times this mean, and trains the lower half of the
    student by it alone before the rest.

    Differs from the official code: none is known in torch. The ports in use,
    such as that in winycg/CIRKD (dab64db), have this mean; its regressor has
    no bias.

    Args:
        student (Tensor): features of the student, after an adapter where its
            channels differ from the teacher's.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over all elements.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree.

    Reference:
        FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv:1412.6550.

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
        >>> fitnets_loss(student, torch.zeros(1, 1, 1, 2)).item()
        5.0
    """
    check_maps(student, teacher)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is None:
            return F.mse_loss(student, teacher)
        return weighted_mean((student - teacher).square(), weight)


class FitNetsLoss(DistillationLoss):
    """Mean squared difference of features: :func:`fitnets_loss`.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> round(FitNetsLoss()(features, features + 2).item(), 4)
        4.0
    """
    channels = 'adapt'
    takes_weight = True

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`fitnets_loss`."""
        return fitnets_loss(student, teacher, weight=weight)
