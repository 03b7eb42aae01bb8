"""PKD: Pearson's correlation of the channels of a map."""
from torch import Tensor

from ._maps import (
    autocast_off,
    channel_correlation_loss,
    check_maps,
    full_precision,
    normalise_weight,
)
from .base import DistillationLoss


def pkd_loss(student: Tensor,
             teacher: Tensor,
             *,
             weight: Tensor | None = None,
             sync_ranks: bool = False) -> Tensor:
    r"""One less Pearson's correlation, channel by channel.

    .. math::
        L = \frac{1}{C} \sum_c (1 - r_c), \quad
        r_c = \frac{\sum_{p} w_p (F^s_{pc} - \bar F^s_c)
                              (F^t_{pc} - \bar F^t_c)}
            {\sqrt{\sum_{p} w_p (F^s_{pc} - \bar F^s_c)^2
                   \sum_{p} w_p (F^t_{pc} - \bar F^t_c)^2} + 10^{-8}}

    :math:`F` (N, C, H, W) are features, p runs over the N H W positions of
    the batch and :math:`\bar F_c` is the weighted mean of a channel over
    them. This is half of the mean squared difference of features that are
    standardised channel by channel. It has no unit, and a shift and a
    positive scale of a channel have no effect.

    Masks: padding and ``foreground`` by ``weight``. Ignored pixels take
    part: features do not depend on labels.

    Differs from the paper: in nothing that is known.

    Differs from the official code: its unbiased deviation makes the value
    (m - 1) / m of this one, m = N H W, and 1e-6 is added to each deviation.
    A channel that is all the same, to a norm of 1e-6, has the correlation 0
    and no gradient; there the term is 1 / 2. The code resizes the student,
    and only where the heights differ; the run resizes the teacher.

    Args:
        student (Tensor): features of the student, after an adapter where its
            channels differ from the teacher's.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        sync_ranks (bool): whether the positions are those of all ranks, each
            of which makes this call then. Defaults to False.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the channels, from 0 to 2.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree.

    Reference:
        PKD: General Distillation Framework for Object Detectors via Pearson
        Correlation Coefficient, NeurIPS 2022, arXiv:2207.02039,
        open-mmlab/mmrazor (PKDLoss).

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 2., 3.]).view(1, 1, 1, 3)
        >>> round(pkd_loss(student, 5 * student + 1).item(), 4)
        0.0
        >>> round(pkd_loss(student, -student).item(), 4)
        2.0
    """
    check_maps(student, teacher)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        if weight is not None:
            normalise_weight(weight, student)  # checks the shape
            weight = weight.detach().to(student)
        return channel_correlation_loss(student, teacher, weight, sync_ranks)


class PKDLoss(DistillationLoss):
    """Correlation of features by channel: :func:`pkd_loss`.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> abs(PKDLoss()(features, 3 * features + 1).item()) < 1e-5
        True
    """
    channels = 'adapt'
    level_reduction = 'sum'
    takes_weight = True

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse correlations of one or two numbers, which are constant."""
        count = student[:, 0].numel()
        if count < 3:
            raise ValueError(
                f'PKDLoss correlates {count} positions of the batch in maps '
                f'of shape {tuple(student.shape)}, and of one or two numbers '
                'the correlation is constant; use a finer level')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`pkd_loss`."""
        return pkd_loss(student, teacher, weight=weight,
                        sync_ranks=self.sync_ranks)
