"""Distillation between levels and channels of one network."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    masked_mean,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss, shapes


def tfd_inter_loss(student: Tensor,
                   teacher: Tensor,
                   *,
                   weight: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of a shallow map and the start of a deeper one.

    .. math::
        L = \frac{1}{N C H_b W_b} \sum_{n,h,w} \sum_{c=1}^{C}
            (\mathrm{pool}(F^a)_{nchw} - F^b_{nchw})^2, \quad
        C = \min(C_a, C_b)

    :math:`F^a` (N, C_a, H_a, W_a) is the shallow map, the student, and
    :math:`F^b` (N, C_b, H_b, W_b) the deeper one of the same network, the
    teacher; only the first :math:`C` channels of each are compared.
    :math:`\mathrm{pool}` is adaptive average pooling to (H_b, W_b), of any
    ratio. Along an axis where the deeper map is the larger one, pooling
    repeats the elements of the shallow map and averages two neighbours where
    the ratio is no integer.

    With ``weight`` only positions that weigh more than 0 are pooled, and a
    pooled position has the mean weight of its positions.

    Of several levels :class:`TFDInterLoss` is the mean over the m pairs, as
    in the paper, whose weight of it is 0.005, whatever m is.

    Differs from the paper: its squared distance is a mean here, as in the
    code.

    Differs from the official code: the height alone sets both pooled sizes
    there, so its maps must be square, and a deeper map with fewer channels
    is an error. Its script has the paper's weight, its README 0.0005. The
    ramp over the first 20 epochs belongs to the schedule of the run.

    Args:
        student (Tensor): features of the shallow level.
        teacher (Tensor): features of the deeper level; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.

    Shape:
        - student: (N, C_a, H_a, W_a).
        - teacher: (N, C_b, H_b, W_b).
        - weight: (N, 1, H_a, W_a).

    Returns:
        Tensor: scalar, the mean over all elements compared.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree.

    Reference:
        Teacher-free Distillation via Regularizing Intermediate
        Representation, IJCNN 2022, doi 10.1109/IJCNN55064.2022.9892575, and
        Self-Regulated Feature Learning via Teacher-free Feature
        Distillation, ECCV 2022, doi 10.1007/978-3-031-19809-0_20,
        lilujunai/Teacher-free-Distillation (3427f98).

    Example:
        >>> import torch
        >>> shallow = torch.tensor([1., 3.]).view(1, 1, 1, 2)
        >>> deep = torch.tensor([5., 9.]).view(1, 2, 1, 1)
        >>> tfd_inter_loss(shallow, deep).item()
        9.0
    """
    check_maps(student, teacher, same_channels=False, same_size=False)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        channels = min(student.shape[1], teacher.shape[1])
        student = student[:, :channels]
        height, width = teacher.shape[2:]
        size = height, width
        weight = normalise_weight(weight, student)
        if weight is not None:
            mask = weight > 0
            share = F.adaptive_avg_pool2d(mask.to(student), size)
            student = F.adaptive_avg_pool2d(
                student.masked_fill(~mask, 0), size)
            student = student / share.where(share > 0, 1)
            weight = normalise_weight(
                F.adaptive_avg_pool2d(weight, size), teacher)
        else:
            student = F.adaptive_avg_pool2d(student, size)
        return weighted_mean(
            (student - teacher[:, :channels]).square(), weight)


def tfd_intra_loss(student: Tensor,
                   teacher: Tensor,
                   *,
                   weight: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the redundant and the salient channels.

    .. math::
        L = \frac{1}{N K H W} \sum_{n,h,w} \sum_{k=1}^{K}
            (F^s_{n,o_{K+k},h,w} - F^t_{n,o_k,h,w})^2, \quad
        S_c = \frac{1}{NHW} \sum_{n,h,w} \frac{F^t_{nchw}}
              {\max(\lVert F^t_{nc} \rVert_2, 10^{-12})}

    :math:`F` (N, C, H, W) are features, :math:`S` (C) is the saliency of the
    channels, :math:`o` (C) their order from the largest saliency to the
    smallest, equal ones as they come, and :math:`K` is C // 2; the norm is
    over the positions of one channel of one image. The salient half teaches
    the redundant half, each channel the one of its own rank. ``student`` and
    ``teacher`` are one and the same map in use.

    With an odd C the least salient channel takes no part. With C = 1 there
    is no pair: the loss and its gradient are exactly 0. The scale of a
    channel has no effect on its saliency, which says how evenly a channel is
    active, not how strongly.

    Of several levels :class:`TFDIntraLoss` is the mean, as in the official
    code, whose weight of it is 0.0004, whatever their number.

    Differs from the paper: its body could not be read. As its abstract says,
    the salient channels teach the redundant ones.

    Differs from the official code: the salient half gets a gradient too
    there, and an odd number of channels is an error. One order for the whole
    batch is the same. Its script has a weight of 0.0004, its README 0.0008.
    The ramp over the first 20 epochs belongs to the schedule of the run.

    Args:
        student (Tensor): features whose redundant half learns.
        teacher (Tensor): features whose salient half teaches and which give
            the order; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over all elements of the redundant half.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree.

    Reference:
        Self-Regulated Feature Learning via Teacher-free Feature
        Distillation, ECCV 2022, doi 10.1007/978-3-031-19809-0_20,
        lilujunai/Teacher-free-Distillation (3427f98).

    Example:
        >>> import torch
        >>> peak, flat = torch.tensor([6., 0.]), torch.tensor([2., 2.])
        >>> features = torch.stack([peak, flat]).view(1, 2, 1, 2)
        >>> tfd_intra_loss(features, features).item()
        10.0
    """
    check_maps(student, teacher)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        mask = None if weight is None else weight > 0
        seen = teacher if mask is None else teacher.masked_fill(~mask, 0)
        norm = seen.norm(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        saliency = masked_mean(teacher / norm, (0, 2, 3), mask).flatten()
        order = saliency.sort(stable=True, descending=True).indices
        half = len(order) // 2
        salient, redundant = order[:half], order[half:2 * half]
        difference = (student.index_select(1, redundant)
                      - teacher.index_select(1, salient))
        if half == 0:
            return difference.sum()
        return weighted_mean(difference.square(), weight)


class TFDInterLoss(DistillationLoss):
    """Deeper levels teach shallower ones: :func:`tfd_inter_loss`.

    ``sizes = 'any'``: the maps come in their own sizes, without a resize.

    Example:
        >>> import torch
        >>> shallow, deep = torch.rand(2, 8, 8, 16), torch.rand(2, 16, 4, 8)
        >>> TFDInterLoss()(shallow, deep).shape
        torch.Size([])
    """
    channels = 'any'
    sizes = 'any'
    takes_weight = True

    def pair_levels(
            self, student: Sequence[Tensor],
            teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Every level of the student with every deeper one of the teacher.

        Raises:
            ValueError: There are fewer than two levels.

        Example:
            >>> TFDInterLoss().pair_levels(
            ...     ['s1', 's2', 's3'], ['t1', 't2', 't3'])
            [('s1', 't2'), ('s1', 't3'), ('s2', 't3')]
        """
        if min(len(student), len(teacher)) < 2:
            raise ValueError(
                'a deeper level teaches a shallower one: two levels or more '
                f'are needed, but got student {shapes(student)} and teacher '
                f'{shapes(teacher)}')
        return [(shallow, deep) for a, shallow in enumerate(student)
                for deep in teacher[a + 1:]]

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`tfd_inter_loss`."""
        return tfd_inter_loss(student, teacher, weight=weight)


class TFDIntraLoss(DistillationLoss):
    """Salient channels teach redundant ones: :func:`tfd_intra_loss`.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> TFDIntraLoss()(features, features).shape
        torch.Size([])
    """
    channels = 'equal'
    takes_weight = True

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse one channel, which has no other to learn from."""
        if student.shape[1] == 1:
            raise ValueError(
                'TFDIntraLoss lets the channels of a map teach each other, '
                'but the map has one; use a source with more channels')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`tfd_intra_loss`."""
        return tfd_intra_loss(student, teacher, weight=weight)
