"""Similarities between the positions of a map (structured distillation)."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ._common import (autocast_off, check_choice, check_integer_or_none,
                      check_maps, check_weight, full_precision)

POOL_MODES = ('avg', 'max')
PANEL = 128  # rows of a product at a time


def pairwise_loss(student: Tensor,
                  teacher: Tensor,
                  pool: Optional[int] = 2,
                  pool_mode: str = 'avg',
                  connection_range: Optional[int] = None,
                  weight: Optional[Tensor] = None) -> Tensor:
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

    With ``weight`` a node weighs :math:`w_i`, the mean of its pixels that
    weigh more than 0, is pooled over these, and the mean over the pairs is
    weighted by :math:`w_i w_j`; as :math:`w_i w_j (a^s - a^t)^2` is what
    features of length :math:`\sqrt{w_i}` give, the cost stays the same.

    Cost, fully connected: with the normalised maps S (C_s, P), T (C_t, P),

    .. math::
        \lVert S'S - T'T \rVert^2 =
        \lVert SS' \rVert^2 + \lVert TT' \rVert^2 - 2 \lVert ST' \rVert^2,
        \quad \nabla_S = 4 (SS'S - ST'T),

    in Frobenius norms: memory is linear in P, time P * C^2. Lengths and C x C
    products are in float64, for the three terms cancel where the student is
    close to the teacher. The P x P form is taken where P is below the
    channels. With ``connection_range`` r: time P * C * (2r + 1)^2 / 2 (a pair
    counts for both of its orders), memory linear in P. The gradient is ready
    with the value, one map of the size of S; it cannot be differentiated
    again.

    Differs from the paper: the normaliser is the number of pairs that exist,
    also at the border of a local graph and for a last patch that is cut off.

    Differs from the official code: it takes the maximum over patches of half
    the map (four to nine nodes) instead of 2 x 2 pixels, and gives the norm
    no gradient. The normaliser is the same in the fully connected graph.

    Args:
        student (Tensor): features of the student.
        teacher (Tensor): features of the teacher; detached here.
        pool (int, optional): side of a patch in pixels; a patch cut off by
            the border counts its pixels inside the map. 1 or None: every
            pixel is a node. Defaults to 2.
        pool_mode (str): 'avg' or 'max' over a patch. Defaults to 'avg'.
        connection_range (int, optional): largest distance of a connected
            pair, in nodes. None: all are connected. Defaults to None.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.

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
        weight = check_weight(weight, student)
        if weight is not None:
            student, teacher = (_without(x, weight == 0, pool, pool_mode)
                                for x in (student, teacher))
            weight = _node_weight(weight, pool)
        student = _pooled(student, pool, pool_mode)
        teacher = _pooled(teacher, pool, pool_mode)
        return _SimilarityDistance.apply(student, teacher, connection_range,
                                         weight)


def _check_arguments(pool, pool_mode, connection_range):
    check_integer_or_none('pool', pool, minimum=1)
    check_choice('pool_mode', pool_mode, POOL_MODES)
    check_integer_or_none('connection_range', connection_range, minimum=0)


def _without(maps, left_out, pool, pool_mode):
    """Maps whose pooled values do not depend on what is left out."""
    if pool_mode == 'avg' or pool is None or pool == 1:
        return maps.masked_fill(left_out, 0)  # nodes get length 1 later
    least = torch.finfo(maps.dtype).min
    is_empty = F.max_pool2d((~left_out).to(maps), pool, ceil_mode=True) == 0
    is_empty = is_empty.repeat_interleave(pool, 2).repeat_interleave(pool, 3)
    is_empty = is_empty[:, :, :maps.shape[2], :maps.shape[3]]
    return maps.masked_fill(left_out, least).masked_fill(is_empty, 0)


def _node_weight(weight, pool):
    """Mean over the pixels of a node that weigh more than 0 (N, 1, h, w)."""
    total = _pooled(weight, pool, 'avg')
    count = _pooled((weight > 0).to(weight), pool, 'avg')
    return total / count.where(count > 0, 1)


def _pair_weight(weight, connection_range):
    """Sum of w_i w_j over the connected pairs of an image, (1, h, w)."""
    if connection_range is None or connection_range >= max(
            weight.shape[1:]) - 1:
        return weight.sum().square()
    side = 2 * connection_range + 1
    near = F.avg_pool2d(weight, side, 1, connection_range) * side**2
    return (weight * near).sum()


def _pooled(maps, pool, pool_mode):
    if pool is None or pool == 1:
        return maps
    if pool_mode == 'max':
        return F.max_pool2d(maps, pool, ceil_mode=True)
    return F.avg_pool2d(maps, pool, ceil_mode=True, count_include_pad=False)


class _SimilarityDistance(torch.autograd.Function):
    """Mean squared difference of similarities, image by image in float64."""

    @staticmethod
    def forward(ctx, student, teacher, connection_range, weight):
        with_slope = ctx.needs_input_grad[0]
        slopes = torch.empty_like(student) if with_slope else None
        total = 0
        for n in range(len(student)):
            s, scale = _unit_nodes(student[n])
            t, _ = _unit_nodes(teacher[n])
            dtype = with_slope and student.dtype
            if weight is None:
                value, slope, pairs = _image_distance(s, t, connection_range,
                                                      dtype)
            else:
                root = weight[n].double().sqrt()
                value, slope, _ = _image_distance(
                    s * root, t * root, connection_range, dtype)
                pairs = _pair_weight(weight[n].double(), connection_range)
                pairs = pairs.where(pairs > 0, 1)
            total = total + value / pairs
            if with_slope:  # the length of a feature has no effect
                slope, s = slope.to(slopes), s.to(slopes)
                if weight is not None:
                    slope = slope * root.to(slopes)
                along = torch.linalg.vecdot(s, slope, dim=0)
                torch.addcmul(slope, s, along, value=-1, out=slopes[n])
                slopes[n] *= scale.to(slopes) / (pairs * len(student))
        ctx.slopes = slopes
        return (total / len(student)).to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.slopes, None, None, None


def _unit_nodes(maps):
    """Features of length 1, or 0 where all were 0, and what made them so."""
    maps = maps.to(torch.float64, copy=True)
    norm = torch.linalg.vecdot(maps, maps, dim=0).sqrt()
    # dividing a zero vector by a tiny number instead would give its gradient
    # a factor that no half precision can hold
    scale = norm.masked_fill_(norm < 1e-12, 1).reciprocal_()
    return maps.mul_(scale), scale


def _image_distance(s, t, connection_range, dtype):
    """Sum over the pairs of an image, its gradient by ``s``, their number.

    Args:
        s, t (Tensor): nodes (C, H, W) in float64.
        connection_range (int | None): see :func:`pairwise_loss`.
        dtype (torch.dtype | False): of the gradient; False: none is needed.
    """
    height, width = s.shape[1:]
    if connection_range is None or connection_range >= max(height, width) - 1:
        value, slope = _connected(s.flatten(1), t.flatten(1), dtype)
        pairs = (height * width)**2
    else:
        value, slope, pairs = _local(s, t, connection_range, dtype)
    return value, slope.view_as(s) if dtype else None, pairs


def _connected(s, t, dtype):
    """Sum over all pairs of the columns of s (C_s, P) and t (C_t, P)."""
    if s.shape[1] < max(len(s), len(t)):
        difference = s.T @ s - t.T @ t
        slope = 4 * s @ difference if dtype else None
        return difference.square().sum(), slope
    ss, tt, st = _gram(s), _gram(t), s @ t.T
    value = ss.square().sum() - 2 * st.square().sum() + tt.square().sum()
    slope = _slope(s, t, ss, st, dtype) if dtype else None
    return value.clamp(min=0), slope


def _gram(x):
    """x @ x.T; of its symmetric halves little more than one is computed."""
    out = x.new_empty(len(x), len(x))
    for begin in range(0, len(x), PANEL):
        end = begin + PANEL
        out[begin:end, :end] = x[begin:end] @ x[:end].T
        out[:begin, begin:end] = out[begin:end, :begin].T
    return out


def _slope(s, t, ss, st, dtype):
    """4 (SS'S - ST'T)."""
    if len(s) != len(t):
        return 4 * (ss @ s - st @ t)
    # (SS' - ST')S + ST'(S - T): both differences are taken in float64, so
    # nothing is left that cancels near the teacher, and float32 will do
    near = torch.sub(s, t, out=torch.empty_like(s, dtype=dtype))
    slope = (ss - st).mul_(4).to(dtype) @ s.to(dtype)
    return slope.addmm_(st.to(dtype), near, alpha=4)


def _local(s, t, reach, with_slope):
    """Sum over the pairs within ``reach``; s (C_s, H, W), t (C_t, H, W)."""
    height, width = s.shape[1:]
    value, pairs = 0, 0
    slope = torch.zeros_like(s) if with_slope else None
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
            pairs += orders * difference.numel()
            value = value + orders * difference.square().sum()
            if with_slope:
                slope[here] += 2 * orders * difference * s[there]
                slope[there] += 2 * orders * difference * s[here]
    return value, slope, pairs


class PairwiseLoss(nn.Module):
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
    needs_positions = True

    def __init__(self,
                 pool: Optional[int] = 2,
                 pool_mode: str = 'avg',
                 connection_range: Optional[int] = None):
        super().__init__()
        _check_arguments(pool, pool_mode, connection_range)
        self.pool = pool
        self.pool_mode = pool_mode
        self.connection_range = connection_range

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                label: Optional[Tensor] = None,
                weight: Optional[Tensor] = None) -> Tensor:
        """See :func:`pairwise_loss`; the label is not used."""
        return pairwise_loss(student, teacher, self.pool, self.pool_mode,
                             self.connection_range, weight)
