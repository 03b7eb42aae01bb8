"""CrossKD: the student's head features through the rest of the teacher's."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import MOST, check_not_negative, is_number
from ._maps import (
    LEAST,
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    softmax_divergence,
    sum_over_ranks,
    total_weight,
)
from .base import DistillationLoss

SIDES = 4
BOX_WEIGHTS = dict(distributions=4.0, boxes=1.0)
EPS = 1e-6  # added to a deviation, as in the official code
Predictions = Sequence[tuple[Tensor, Tensor]]


def crosskd_loss(student: Sequence[Tensor],
                 teacher: Sequence[Tensor],
                 *,
                 head: Callable[[Sequence[Tensor]], Predictions],
                 positives: float | Tensor,
                 weight: Sequence[Tensor | None] | None = None,
                 beta: float = 1.0,
                 box_weight: float | None = None,
                 sync_ranks: bool = False) -> Tensor:
    r"""Difference of what the teacher's head makes of both features.

    .. math::
        L = \frac{1}{P} \sum_{r} w_r \sum_k
            \mathrm{BCE}(z_{rk}, \sigma(z^t_{rk}))
            \,|\sigma(z_{rk}) - \sigma(z^t_{rk})|^\beta
          + \lambda \frac{1}{R} \sum_{r} w_r s_r D(b_r, b^t_r), \quad
        s_r = \max_k \sigma(z^t_{rk})

    .. math::
        (z, b) = h\Big(\frac{f - \bar f}{d(f) + 10^{-6}} d(f^t)
                       + \bar f^t\Big), \quad (z^t, b^t) = h(f^t)

    :math:`f` are the features in both branches of the student's head at the
    split, :math:`h` is what follows the split in the teacher's head: class
    scores :math:`z` and boxes :math:`b` of each anchor r of all positions,
    levels and images. :math:`\bar f` and :math:`d(f)` are mean and deviation
    of each channel of a level over the positions of the batch; so features of
    another scale fit. P are the positives of the student's own class loss.

    Where boxes are distributions, :math:`D = \frac{1}{4} \sum_{e=1}^{4}
    \mathrm{KL}(q^t_{re} \,\|\, q_{re})` over the bins of the four sides, and
    :math:`R = \sum_r w_r s_r`; else :math:`D = 1 - \mathrm{GIoU}` and R = P.
    The value has no unit.

    Masks: padding and ``foreground`` by ``weight``, of which those of an
    image are scaled to a mean of 1 over the positions that weigh more than 0.
    The statistics are those of these positions, and the features of the
    others are 0 in both. Ignored pixels do not exist in boxes.

    Differs from the paper: in nothing that is known; the region of the box
    term, :math:`s`, is that of the code.

    Differs from the official code: anchors that the student's assigner
    ignores take part, and with ``sync_ranks`` the statistics and R are those
    of all ranks. FCOS has the weights of the other heads and 1 - GIoU through
    P; the code has 0.4 and 0.75, the negative logarithm of the IoU, and the
    sum of the centre-nesses of the positives for P. What ATSS says of the
    centre-ness is not distilled.

    Args:
        student (Sequence[Tensor]): features of the student at the split, for
            each level those of the class branch and those of the box branch.
        teacher (Sequence[Tensor]): those of the teacher; detached here.
        head (Callable): gives for each level class scores (N, A, K, H, W)
            and boxes, either (N, A, 4, H, W), x1 y1 x2 y2, or the scores of
            the bins of their sides (N, A, 4 * B, H, W); its parameters should
            need no gradient.
        positives (float | Tensor): P, by which the student's own class loss
            is divided.
        weight (Sequence[Tensor], optional): of the positions of each map, 0
            or more; what weighs 0, such as padding, takes no part. None: all
            weigh the same. Defaults to None.
        beta (float): exponent of the factor of the class term, 0 or at least
            1. Defaults to 1.0.
        box_weight (float, optional): :math:`\lambda`. None: 4 for
            distributions, 1 for boxes. Defaults to None.
        sync_ranks (bool): whether statistics and R are those of all ranks,
            each of which makes this call then. Defaults to False.

    Shape:
        - student, teacher: (N, C, H, W) each, two for each level.
        - weight: (N, 1, H, W) each.

    Returns:
        Tensor: scalar, the sum over the levels.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        CrossKD: Cross-Head Knowledge Distillation for Object Detection, CVPR
        2024, arXiv:2306.11369, jbwang1997/CrossKD (87e156a).

    Example:
        >>> import torch
        >>> def head(maps):
        ...     return [(maps[0][:, None], maps[1][:, None])]
        >>> scores = torch.zeros(1, 1, 1, 2)
        >>> boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 4., 4.]])
        >>> maps = [scores, boxes.T.view(1, 4, 1, 2)]
        >>> same = crosskd_loss(maps, maps, head=head, positives=1)
        >>> abs(same.item()) < 1e-4
        True
    """
    _check_arguments(beta, box_weight)
    if not student or len(student) % 2 or len(student) != len(teacher):
        raise ValueError(
            f'{len(student)} maps of the student and {len(teacher)} of the '
            'teacher; those of the class and of the box branch of each level '
            'are needed')
    for s, t in zip(student, teacher):
        check_maps(s, t)
    with autocast_off(student[0]):
        pairs = [full_precision(*pair) for pair in zip(student, teacher)]
        ours, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
        weights = [_mean_one(w, s) for w, s in zip(
            weight or [None] * len(ours), ours)]
        masks = [None if w is None else w > 0 for w in weights]
        ours, theirs = ([_cut(x, mask) for x, mask in zip(side, masks)]
                        for side in (ours, theirs))
        ours = _aligned(ours, theirs, masks, sync_ranks)
        with torch.no_grad():
            targets = head(theirs)
        total = ours[0].new_zeros(())
        box_total, confidence = total, total
        for (z, box), (z_t, box_t), w in zip(
                head(ours), targets, weights[::2]):
            score = z_t.sigmoid()
            total = total + _sum(_class_terms(z, score, beta), w)
            sure = score.amax(2)
            box_total = box_total + _sum(sure * _box_terms(box, box_t), w)
            confidence = confidence + _sum(sure, w)
        count = torch.as_tensor(positives).to(total).clamp(min=EPS)
        is_distribution = box.shape[2] > SIDES
        if box_weight is None:
            box_weight = BOX_WEIGHTS[
                'distributions' if is_distribution else 'boxes']
        return total / count + box_weight * box_total / (
            total_weight(confidence, sync_ranks) if is_distribution
            else count)


def _check_arguments(beta: Any, box_weight: Any) -> None:
    if not is_number(beta) or not (beta == 0 or 1 <= beta <= MOST):
        raise ValueError(f'beta must be 0 or a finite number from 1 to '
                         f'{MOST:g}, but got {beta!r}; between 0 and 1 the '
                         'slope is not finite where student and teacher are '
                         'equal')
    if box_weight is not None:
        check_not_negative('box_weight', box_weight)


def _mean_one(weight: Tensor | None, maps: Tensor) -> Tensor | None:
    """Weights (N, 1, H, W) with a mean of 1 over those above 0."""
    weight = normalise_weight(weight, maps)
    if weight is None:
        return None
    return weight * (weight > 0).sum((1, 2, 3), keepdim=True)


def _cut(maps: Tensor, mask: Tensor | None) -> Tensor:
    return maps if mask is None else maps.masked_fill(~mask, 0)


def _aligned(student: Sequence[Tensor], teacher: Sequence[Tensor],
             masks: Sequence[Tensor | None], sync_ranks: bool) -> list[Tensor]:
    """The student's maps with mean and deviation of the teacher's channels.

    A channel that is all the same gets the teacher's mean.
    """
    centred, _, ours = _moments(student, masks, sync_ranks)
    with torch.no_grad():
        _, means, theirs = _moments(teacher, masks, sync_ranks)
    scales = _of_maps((theirs / (ours + EPS)).where(ours > 0, 0), student)
    return [_cut(torch.addcmul(mean, x, scale), mask)
            for x, mean, scale, mask in zip(centred, means, scales, masks)]


def _moments(maps: Sequence[Tensor], masks: Sequence[Tensor | None],
             sync_ranks: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Maps that are 0 in the masks less their means, means and deviations.

    Of each channel; the deviations of all maps in one vector, as their sums
    go over the ranks at once.
    """

    def mean(values: Sequence[Tensor]) -> Tensor:
        return sum_over_ranks(torch.cat([
            x.sum((0, 2, 3)) for x in values]), sync_ranks) / count

    count = sum_over_ranks(torch.cat([
        x.new_full((x.shape[1], ), x[:, 0].numel()) if mask is None else
        mask.sum().to(x).expand(x.shape[1])
        for x, mask in zip(maps, masks)]), sync_ranks).clamp(min=1)
    means = _of_maps(mean(maps), maps)
    centred = [_cut(x - m, mask) for x, m, mask in zip(maps, means, masks)]
    variance = mean([x.square() for x in centred])
    known = variance > LEAST  # the root of 0 has no slope
    return centred, means, variance.where(known, 1).sqrt().where(known, 0)


def _of_maps(values: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """What a vector has of the channels of each map, (1, C, 1, 1)."""
    return [x.view(1, -1, 1, 1)
            for x in values.split([x.shape[1] for x in maps])]


def _class_terms(logits: Tensor, target: Tensor, beta: float) -> Tensor:
    """The quality focal loss of each anchor (N, A, H, W)."""
    loss = F.binary_cross_entropy_with_logits(
        logits, target, reduction='none')
    if beta:
        apart = (logits.sigmoid() - target).abs()
        loss = loss * (apart if beta == 1 else apart.pow(beta))
    return loss.sum(2)


def _box_terms(box: Tensor, target: Tensor) -> Tensor:
    """KL of the distributions of a box, or 1 - GIoU (N, A, H, W)."""
    if box.shape[2] > SIDES:
        return softmax_divergence(
            box.unflatten(2, (SIDES, -1)),
            target.unflatten(2, (SIDES, -1)), 3).mean((2, 3))
    return 1 - _giou(box, target)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Of boxes (N, A, 4, H, W), x1 y1 x2 y2, one by one."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        width, height = (high - low).clamp(min=0).unbind(2)
        return width * height

    (a_low, a_high), (b_low, b_high) = (x.chunk(2, 2) for x in (a, b))
    common = area(torch.maximum(a_low, b_low), torch.minimum(a_high, b_high))
    union = area(a_low, a_high) + area(b_low, b_high) - common
    around = area(torch.minimum(a_low, b_low), torch.maximum(a_high, b_high))
    union, around = union.clamp(min=EPS), around.clamp(min=EPS)
    return common / union - (around - union) / around


def _sum(values: Tensor, weight: Tensor | None) -> Tensor:
    """Of the anchors (N, A, H, W) by the weights of positions."""
    if weight is None:
        return values.sum()
    return (values.masked_fill(weight == 0, 0) * weight).sum()


class CrossKDLoss(DistillationLoss):
    """What the teacher's head makes of both features: :func:`crosskd_loss`.

    The sources are the branches of a dense head at the split, such as
    ``branches.-1``: in front of the last convolution of each.

    Args:
        beta (float): exponent of the factor of the class term, 0 or at least
            1. Defaults to 1.0.
        box_weight (float, optional): of the box term. None: 4 where boxes are
            distributions (GFL), 1 elsewhere. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> def head(maps):
        ...     return [(c[:, None, :3], b[:, None, :4])
        ...             for c, b in zip(maps[::2], maps[1::2])]
        >>> maps = [10 * torch.rand(2, 8, 6, 6).cumsum(1)
        ...         for _ in range(4)]
        >>> same = CrossKDLoss()(maps, maps, head=head, positives=5)
        >>> abs(same.item()) < 1e-4
        True
    """
    channels = 'adapt'
    levels_together = True
    level_reduction = 'sum'
    takes_weight = True
    needs_head = True
    needs_positives = True

    def __init__(self, beta: float = 1.0, box_weight: float | None = None):
        super().__init__()
        _check_arguments(beta, box_weight)
        self.beta, self.box_weight = beta, box_weight

    def forward(self,
                student: Sequence[Tensor],
                teacher: Sequence[Tensor],
                *,
                head: Callable[[Sequence[Tensor]], Predictions],
                positives: float | Tensor,
                weight: Sequence[Tensor | None] | None = None) -> Tensor:
        """See :func:`crosskd_loss`."""
        return crosskd_loss(
            student, teacher, head=head, positives=positives, weight=weight,
            beta=self.beta, box_weight=self.box_weight,
            sync_ranks=self.sync_ranks)
