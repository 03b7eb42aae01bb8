"""Inter-class similarity distillation."""
import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import check_positive
from ._maps import autocast_off, check_maps, full_precision, normalise_weight
from .base import DistillationLoss

LEAST_TEMPERATURE = 1e-6  # the gradient grows with the square of its inverse


def icsd_loss(student: Tensor,
              teacher: Tensor,
              *,
              weight: Tensor | None = None,
              temperature: float = 1.0) -> Tensor:
    r"""Squared difference of the divergences between the class maps.

    .. math::
        L = \frac{1}{N K^2} \sum_{n=1}^{N} \sum_{i,j=1}^{K}
            (D^s_{n,ij} - D^t_{n,ij})^2, \quad
        D_{n,ij} = \sum_{m=1}^{HW} p_{n,i,m}
                   (\log p_{n,i,m} - \log p_{n,j,m})

    :math:`p_{n,i}` (H * W) is the softmax of class map :math:`i` of image
    :math:`n`, divided by the temperature, over its positions :math:`m`, and
    :math:`D_n` (K, K) the matrix of divergences KL(p_i || p_j). A constant
    added to a class map has no effect.

    Cost: one matrix product of (K, H * W) and (H * W, K) per image and
    model, and two of (K, K) and (K, H * W) for the gradient. The former is
    in float64, because two such matrices differ little. The gradient is
    computed along with the value and cannot be differentiated again.

    With ``weight`` the softmax and the divergence count a position as often
    as it weighs: :math:`p_{n,i,m} \propto w_{n,m} \exp(z_{n,i,m})`, with
    :math:`\log (p / w)` in place of :math:`\log p`. An image of weight 0
    has the value 0.

    Differs from the paper: the order of the divergence, the temperature, and
    whether there is one matrix per image or per batch, are not stated in
    what could be read; they are chosen as above. The adaptive weighting
    (AICSD) belongs to the schedule of the run, not to this function.

    Differs from the official code: that one takes the softmax over H only
    (per column), feeds probabilities where log-probabilities belong, mirrors
    the upper triangle of an asymmetric matrix, averages over the batch
    before comparing, normalises the rows and fixes K to 21.

    Args:
        student (Tensor): logits of the student.
        teacher (Tensor): logits of the teacher; detached here.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        temperature (float): divides both logits. Defaults to 1.0.

    Shape:
        - student, teacher: (N, K, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images and over the K * K ordered
        class pairs.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        AICSD: Adaptive Inter-Class Similarity Distillation for Semantic
        Segmentation, Multimedia Tools and Applications 2025,
        arXiv:2308.04243, AmirMansurian/AICSD (f99949e).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 2)
        >>> teacher = torch.tensor([[.5, .5], [.75, .25]]).log()
        >>> teacher = teacher.view(1, 2, 1, 2)
        >>> round(icsd_loss(student, teacher).item(), 6)
        0.009451
    """
    check_maps(student, teacher)
    check_positive('temperature', temperature, LEAST_TEMPERATURE)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        return _DivergenceDistance.apply(student, teacher, temperature,
                                         weight)


class _DivergenceDistance(torch.autograd.Function):
    """Mean squared difference of the divergences of two models."""

    @staticmethod
    def forward(ctx, student, teacher, temperature, weight):
        theirs = class_divergences(teacher, temperature, weight)[0]
        ours, p, log_p = class_divergences(student, temperature, weight)
        difference = ours - theirs
        if ctx.needs_input_grad[0]:
            by_ours = difference * (2 / difference.numel() / temperature)
            ctx.slope = _slope(by_ours, ours, p, log_p,
                               student.dtype).view_as(student)
        return difference.square().mean().to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.slope, None, None, None


def class_divergences(logits, temperature, weight):
    """KL(p_i || p_j) of all class maps (N, K, K), p and log p (N, K, H W)."""
    log_p = logits.double().flatten(2) / temperature
    if weight is not None:
        weight = weight.double().flatten(2)
        log_p.masked_fill_(weight == 0, -math.inf)
    peak = log_p.amax(dim=2, keepdim=True)
    log_p -= peak.where(peak.isfinite(), 0)
    p = log_p.exp()
    if weight is not None:
        p *= weight
    total = p.sum(dim=2, keepdim=True)
    total = total.where(total > 0, 1)
    p /= total
    log_p -= total.log()
    if weight is not None:
        log_p.masked_fill_(weight == 0, 0)
    cross = p @ log_p.transpose(1, 2)
    return cross.diagonal(dim1=1, dim2=2)[:, :, None] - cross, p, log_p


def _slope(by_divergence, divergence, p, log_p, dtype):
    """From the gradient by the divergences to that by the logits.

    With G the former, of logits z = log p + a constant of the class map:
    p_i (sum_j G_ij (log p_i - log p_j - D_ij) + sum_k G_ki) - sum_k G_ki p_k.
    """
    rows = by_divergence.sum(2).diag_embed() - by_divergence
    columns = by_divergence.sum(1).diag_embed() - by_divergence.transpose(1, 2)
    along = (by_divergence * divergence).sum(2, keepdim=True)
    p = p.to(dtype)
    slope = rows.to(dtype) @ log_p.to(dtype)
    slope = slope.sub_(along.to(dtype)).mul_(p)
    return slope.baddbmm_(columns.to(dtype), p)


class ICSDLoss(DistillationLoss):
    """Divergences between the class maps: :func:`icsd_loss`.

    Args:
        temperature (float): divides both logits. Defaults to 1.0.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> ICSDLoss()(logits, logits + 1).item() < 1e-6
        True
    """
    channels = 'classes'
    takes_weight = True
    needs_positions = True

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        check_positive('temperature', temperature, LEAST_TEMPERATURE)
        self.temperature = temperature

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse one class or one position: all divergences are 0."""
        if student.shape[1] == 1:
            raise ValueError(
                'ICSDLoss compares the maps of classes with each other, but '
                "there is one class; use type='KDLoss' with "
                "source='logits' for a yes-or-no score, or ValueLoss for "
                'depth')
        if student[0, 0].numel() == 1:
            raise ValueError(
                'ICSDLoss takes a softmax over the positions, but the map '
                "has one; use a finer level, or type='KDLoss' with "
                "source='logits'")

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`icsd_loss`."""
        return icsd_loss(
            student, teacher, weight=weight, temperature=self.temperature)
