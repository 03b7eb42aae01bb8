"""Similarities between the positions of a map (structured distillation)."""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import check_choice, check_integer_or_none
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    pooled,
    pooled_weight,
)
from .base import DistillationLoss

POOL_MODES = ('avg', 'max')
MANY = 64  # channels from which on products in float64 are worth avoiding
PANEL = 128  # rows of a product at a time
CHUNK = 2**17  # numbers at a time on their way through float64


def pairwise_loss(student: Tensor,
                  teacher: Tensor,
                  *,
                  weight: Tensor | None = None,
                  pool: int | None = 2,
                  pool_mode: str = 'avg',
                  connection_range: int | None = None) -> Tensor:
    r"""Squared difference of the cosine similarities of all node pairs.

    .. math::
        L = \frac{1}{N |E|} \sum_{n=1}^{N} \sum_{(i, j) \in E}
            (a^s_{n,ij} - a^t_{n,ij})^2, \quad
        a_{n,ij} = \frac{f_{n,i} \cdot f_{n,j}}
                        {\lVert f_{n,i} \rVert \lVert f_{n,j} \rVert}

    :math:`f_{n,i}` (C) is the pooled feature of node :math:`i`, one of the
    P = ceil(H / pool) * ceil(W / pool) patches of image :math:`n`.
    :math:`E` holds the ordered pairs with :math:`i = j` among them: all
    P * P, or with ``connection_range`` those whose rows and whose columns
    are at most that far apart (Chebyshev distance). Only similarities are
    compared, so the two maps may differ in channels. A node without any
    activation has similarity 0 to every node.

    With ``weight`` a node is pooled over its pixels that weigh more than 0,
    its weight :math:`w_i` is their mean weight, and the mean over the pairs
    is weighted by :math:`w_i w_j`. Features of length :math:`\sqrt{w_i}`
    give :math:`w_i w_j (a^s - a^t)^2`, so the cost stays the same.

    Cost, fully connected: with the normalised maps S (C_s, P), T (C_t, P),

    .. math::
        \lVert S'S - T'T \rVert^2 =
        \lVert SS' \rVert^2 + \lVert TT' \rVert^2 - 2 \lVert ST' \rVert^2,
        \quad \nabla_S = 4 (SS'S - ST'T),

    in Frobenius norms: memory is linear in P, time P * C^2. The three terms
    cancel where the student is close to the teacher, so for unequal channels
    the products are in float64. For equal ones D = S - T is taken in
    float64, and the same is written without a cancellation near the teacher,

    .. math::
        2 \langle SS', DD' \rangle + 2 \operatorname{tr} (SD')^2 -
        4 \langle SD', DD' \rangle + \lVert DD' \rVert^2, \quad
        \nabla_S = 4 (SD' S + ST' D),

    with products in the precision of the maps from 64 channels on. In
    float32 the value is then off by up to 1e-8 where the similarities agree
    but the features do not (a teacher with its channels in another order).
    The P x P form is taken where P is below the channels. With
    ``connection_range`` r: time P * C * (2r + 1)^2 / 2 (a pair is computed
    once for both of its orders), memory linear in P. The gradient is
    computed along with the value, one map of the size of S; it cannot be
    differentiated again.

    Differs from the paper: the normaliser is the number of pairs that exist,
    also at the border of a local graph and for a last patch that is cut off.

    Differs from the official code: it takes the maximum over patches of half
    the map (four to nine nodes) instead of 2 x 2 pixels, and gives the norm
    no gradient. The normaliser is the same in the fully connected graph.

    Args:
        student (Tensor): features of the student.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        pool (int, optional): side of a patch in pixels; a patch cut off by
            the border counts its pixels inside the map. 1 or None: every
            pixel is a node. Defaults to 2.
        pool_mode (str): 'avg' or 'max' over a patch. Defaults to 'avg'.
        connection_range (int, optional): largest distance of a connected
            pair, in nodes. None: all are connected. Defaults to None.

    Shape:
        - student: (N, C_s, H, W).
        - teacher: (N, C_t, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images and over the ordered pairs
        of connected nodes.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Structured Knowledge Distillation for Semantic Segmentation, CVPR
        2019, and Structured Knowledge Distillation for Dense Prediction,
        TPAMI 2020, both arXiv:1903.04197,
        irfanICMLL/structure_knowledge_distillation (ce208e1).

    Example:
        >>> import torch
        >>> student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
        >>> teacher = torch.ones(1, 4, 1, 2)
        >>> pairwise_loss(student, teacher, pool=None).item()
        0.5
    """
    check_maps(student, teacher, same_channels=False)
    _check_arguments(pool, pool_mode, connection_range)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is not None:
            student, teacher = (_without(x, weight == 0, pool, pool_mode)
                                for x in (student, teacher))
            weight = pooled_weight(weight, pool)
        student = pooled(student, pool, pool_mode)
        teacher = pooled(teacher, pool, pool_mode)
        return _SimilarityDistance.apply(student, teacher, connection_range,
                                         weight)


def _check_arguments(pool, pool_mode, connection_range):
    check_integer_or_none('pool', pool, minimum=1)
    check_choice('pool_mode', pool_mode, POOL_MODES)
    check_integer_or_none('connection_range', connection_range, minimum=1)


def _without(maps, left_out, pool, pool_mode):
    """Maps whose pooled values do not depend on what is left out."""
    if pool_mode == 'avg' or pool is None or pool == 1:
        return maps.masked_fill(left_out, 0)  # nodes get length 1 later
    least = torch.finfo(maps.dtype).min
    is_empty = F.max_pool2d((~left_out).to(maps), pool, ceil_mode=True) == 0
    is_empty = is_empty.repeat_interleave(pool, 2).repeat_interleave(pool, 3)
    is_empty = is_empty[:, :, :maps.shape[2], :maps.shape[3]]
    return maps.masked_fill(left_out, least).masked_fill(is_empty, 0)


def _pairs(size, connection_range):
    """How many ordered pairs of nodes of an image are connected."""
    count = 1
    for length in size:
        reach = length - 1 if connection_range is None else min(
            connection_range, length - 1)
        count *= length * (2 * reach + 1) - reach * (reach + 1)
    return count


def _pair_weight(weight, connection_range):
    """Sum of w_i w_j over these pairs, of the weight (1, H, W); 1 for none."""
    if _is_local(weight.shape[1:], connection_range):
        side = 2 * connection_range + 1
        near = F.avg_pool2d(weight, side, 1, connection_range) * side**2
        total = (weight * near).sum()
    else:
        total = weight.sum().square()
    return total.where(total > 0, 1)


def _is_local(size, connection_range):
    return connection_range is not None and connection_range < max(size) - 1


class _SimilarityDistance(torch.autograd.Function):
    """Mean squared difference of similarities, image by image."""

    @staticmethod
    def forward(ctx, student, teacher, connection_range, weight):
        with_slope = ctx.needs_input_grad[0]
        slopes: Any = torch.empty_like(student) if with_slope else None
        size = student.shape[2:]
        total: Any = 0
        for n in range(len(student)):
            w = None if weight is None else weight[n].double()
            scales = [_scale(x[n], w) for x in (student, teacher)]
            value, slope, s = _image_distance(
                student[n], teacher[n], scales, connection_range, with_slope)
            pairs = _pairs(size, connection_range) if w is None else (
                _pair_weight(w, connection_range))
            total = total + value / pairs
            if with_slope:  # the length of a feature has no effect
                slope = slope.to(slopes).view_as(slopes[n])
                s = s.to(slopes).view_as(slope)
                along = torch.linalg.vecdot(s, slope, dim=0)
                if w is not None:
                    along /= w.where(w > 0, 1)[0].to(along)
                torch.addcmul(slope, s, along, value=-1, out=slopes[n])
                slopes[n] *= (scales[0] / (pairs * len(student))).to(slopes)
        ctx.slopes = slopes
        return (total / len(student)).to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.slopes, None, None, None


def _parts(maps):
    """Some channels at a time: few enough for a CPU's cache in float64."""
    chunk = CHUNK if maps.device.type == 'cpu' else 32 * CHUNK
    return maps.split(max(1, chunk // maps[0].numel()))


def _scale(maps, weight):
    """What gives features length 1, or the root of their weight, (H, W)."""
    square = sum(part.double().square().sum(0) for part in _parts(maps))
    norm = square.sqrt_()
    # dividing a zero vector by a tiny number instead would give its gradient
    # a factor that no half precision can hold
    scale = norm.masked_fill_(norm < 1e-12, 1).reciprocal_()
    return scale if weight is None else scale * weight[0].sqrt()


def _image_distance(student, teacher, scales, connection_range, with_slope):
    """Of the maps (C_s, H, W) and (C_t, H, W) of an image.

    Returns:
        tuple: the sum over the pairs, its gradient by the scaled nodes of
        the student, or None, and these nodes.
    """
    is_local = _is_local(student.shape[1:], connection_range)
    if (not is_local and len(student) == len(teacher)
            <= student[0].numel()):
        return _near(student, teacher, scales, with_slope)
    s, t = (x.to(torch.float64, copy=True).mul_(scale)
            for x, scale in zip((student, teacher), scales))
    if is_local:
        value, slope = _local(s, t, connection_range, with_slope)
    else:
        value, slope = _connected(s.flatten(1), t.flatten(1), with_slope)
    return value, slope, s


def _near(student, teacher, scales, with_slope):
    """All pairs, by nodes S and D = S - T of equal channels (C, P).

    S'S - T'T = S'D + D'S - D'D, so nothing cancels near the teacher, and
    products in the precision of the maps will do; of few channels those in
    float64 cost nothing.
    """
    s, d = (torch.empty_like(student, dtype=torch.float64
                             if len(student) < MANY else None) for _ in 'sd')
    for ours, theirs, *out in zip(*map(_parts, (student, teacher, s, d))):
        node = ours.double().mul(scales[0])
        torch.sub(node, theirs.double().mul(scales[1]), out=out[1])
        out[0].copy_(node)
    s, d = s.flatten(1), d.flatten(1)
    products = ss, sd, dd = _gram(s), s @ d.T, _gram(d)
    slope = None
    if with_slope:
        slope = ((ss - sd).mul_(4) @ d).addmm_(sd, s, alpha=4)
    ss, sd, dd = (x.double() for x in products)
    value = (2 * (ss * dd).sum() + 2 * (sd * sd.T).sum()
             - 4 * (sd * dd).sum() + dd.square().sum())
    return value.clamp(min=0), slope, s


def _connected(s, t, with_slope):
    """All pairs of the columns of s (C_s, P) and t (C_t, P) in float64."""
    if s.shape[1] < max(len(s), len(t)):
        difference = s.T @ s - t.T @ t
        slope = 4 * s @ difference if with_slope else None
        return difference.square().sum(), slope
    ss, tt, st = _gram(s), _gram(t), s @ t.T
    value = ss.square().sum() - 2 * st.square().sum() + tt.square().sum()
    slope = 4 * (ss @ s - st @ t) if with_slope else None
    return value.clamp(min=0), slope


def _gram(x):
    """All products of rows; little more than one half is computed."""
    out = x.new_empty(len(x), len(x))
    for begin in range(0, len(x), PANEL):
        end = begin + PANEL
        out[begin:end, :end] = x[begin:end] @ x[:end].T
        out[:begin, begin:end] = out[begin:end, :begin].T
    return out


def _local(s, t, reach, with_slope):
    """Sum over the pairs within ``reach``; s (C_s, H, W), t (C_t, H, W)."""
    height, width = s.shape[1:]
    value = 0
    slope: Any = torch.zeros_like(s) if with_slope else None
    for down in range(min(reach, height - 1) + 1):
        # downwards and to the right: the other half of the window holds the
        # same pairs in the other order
        farthest = min(reach, width - 1)
        for right in range(-farthest if down else 0, farthest + 1):
            here = (slice(None), slice(0, height - down),
                    slice(max(0, -right), width - max(0, right)))
            there = (slice(None), slice(down, height),
                     slice(max(0, right), width - max(0, -right)))
            difference = ((s[here] * s[there]).sum(0)
                          - (t[here] * t[there]).sum(0))
            orders = 2 if down or right else 1
            value = value + orders * difference.square().sum()
            if with_slope:
                slope[here] += 2 * orders * difference * s[there]
                slope[there] += 2 * orders * difference * s[here]
    return value, slope


class PairwiseLoss(DistillationLoss):
    """Similarities of all node pairs of a map: :func:`pairwise_loss`.

    Args:
        pool (int, optional): side of a patch in pixels; 1 or None: every
            pixel is a node. Defaults to 2.
        pool_mode (str): 'avg' or 'max' over a patch. Defaults to 'avg'.
        connection_range (int, optional): largest distance of a connected
            pair, in nodes. None: all are connected. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> PairwiseLoss(pool=4)(features, 3 * features).item() < 1e-12
        True
    """
    channels = 'any'
    takes_weight = True
    needs_positions = True

    def __init__(self,
                 pool: int | None = 2,
                 pool_mode: str = 'avg',
                 connection_range: int | None = None):
        super().__init__()
        _check_arguments(pool, pool_mode, connection_range)
        self.pool = pool
        self.pool_mode = pool_mode
        self.connection_range = connection_range

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse one channel or one node: all similarities are 1 or -1."""
        if student.shape[1] == 1:
            raise ValueError(
                'PairwiseLoss compares the directions of feature vectors, '
                'but the student has one channel; use ValueLoss for depth '
                "and other values, or a map of more channels, such as "
                "source='features'")
        nodes = math.prod(-(-side // (self.pool or 1))
                          for side in student.shape[2:])
        if nodes == 1:
            raise ValueError(
                'PairwiseLoss compares the nodes of a map with each other, '
                f'but pool={self.pool!r} makes one of '
                f'{student.shape[2]} x {student.shape[3]} positions; use '
                'pool=1 or a finer level')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`pairwise_loss`."""
        return pairwise_loss(
            student, teacher, weight=weight, pool=self.pool,
            pool_mode=self.pool_mode, connection_range=self.connection_range)
