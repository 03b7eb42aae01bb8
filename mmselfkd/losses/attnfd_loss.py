"""Attention-guided feature distillation: maps that a gate has refined."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_bool, check_choice, check_integer
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    masked_mean,
    normalise_weight,
)
from .base import DistillationLoss
from .discriminator import InputNorm

NORMS = ('image', 'batch')


def attnfd_loss(student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None,
                norm: str = 'image') -> Tensor:
    r"""Squared distance of two maps of length 1.

    .. math::
        L = \frac{1}{N} \sum_{n=1}^{N} \Big\lVert
            \frac{F^s_n}{\lVert F^s_n \rVert} -
            \frac{F^t_n}{\lVert F^t_n \rVert} \Big\rVert^2

    :math:`F_n` (C, H, W) is the refined map of image :math:`n`, and the norm
    is that of all its elements. The scale of an image has no effect, and the
    value is 2 (1 - cos), whatever the size of the map.

    With ``norm='batch'`` the norm is that of all images, so a value is about
    1 / N of that: the official form, whose weight belongs to a batch size.

    Masks: padding and ``foreground`` by ``weight``, which multiplies the
    squares in the norms and in the distance. Ignored pixels take part: the
    features of the teacher do not depend on labels.

    Differs from the paper: its text was not at hand.

    Differs from the official code: the norm is that of an image, unless
    asked for.

    Args:
        student (Tensor): refined features of the student.
        teacher (Tensor): those of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        norm (str): 'image' or 'batch': what has the length 1. Defaults to
            'image'.

    Shape:
        - student, teacher: (N, C, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images (a sum over the elements),
        from 0 to 4.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Attention-guided Feature Distillation for Semantic Segmentation,
        later Attention as Geometric Transformation: Revisiting Feature
        Distillation for Semantic Segmentation, arXiv:2403.05451,
        AmirMansurian/AttnFD (f090bbe).

    Example:
        >>> import torch
        >>> student = torch.tensor([3., 4.]).view(1, 1, 1, 2)
        >>> teacher = torch.tensor([0., 7.]).view(1, 1, 1, 2)
        >>> round(attnfd_loss(student, teacher).item(), 4)
        0.4
    """
    check_maps(student, teacher)
    check_choice('norm', norm, NORMS)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is not None:
            student = student.masked_fill(weight == 0, 0) * weight.sqrt()
            teacher = teacher.masked_fill(weight == 0, 0) * weight.sqrt()
        axes = (1, 2, 3) if norm == 'image' else (0, 1, 2, 3)
        student, teacher = (_unit(x, axes) for x in (student, teacher))
        return F.mse_loss(student, teacher, reduction='sum') / len(student)


def _unit(maps, axes):
    norm = torch.linalg.vector_norm(maps, dim=axes, keepdim=True)
    return maps / norm.where(norm > 1e-12, 1)


class Attention(nn.Module):
    """A gate for the channels, then one for the positions (CBAM).

    Both see the mean and the maximum, over the positions and over the
    channels; the first through two layers, the second through a 7x7
    convolution and a norm by the statistics of the batch.

    Args:
        channels (int): of the map.
        reduction (int): the channels are divided by this between the two
            layers. Defaults to 16.

    Shape:
        - Input and output: (N, channels, H, W).

    Reference:
        CBAM: Convolutional Block Attention Module, ECCV 2018,
        arXiv:1807.06521.

    Example:
        >>> import torch
        >>> Attention(32)(torch.rand(2, 32, 5, 6)).shape
        torch.Size([2, 32, 5, 6])
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(),
            nn.Linear(hidden, channels))
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = InputNorm(1)

    def forward(self, maps: Tensor, valid: Tensor | None = None,
                sync_ranks: bool = False) -> Tensor:
        """The refined map; what is not valid (N, 1, H, W) is not seen."""
        gate = sum(self.layers(x) for x in _over_positions(maps, valid))
        maps = maps * gate.sigmoid()[:, :, None, None]
        gate = self.conv(torch.cat(_over_channels(maps), dim=1))
        return maps * self.norm(gate, sync_ranks).sigmoid()


def plain_attention(maps: Tensor, valid: Tensor | None = None) -> Tensor:
    """The gates of :class:`Attention` without anything to learn.

    Args:
        maps (Tensor): (N, C, H, W).
        valid (Tensor, optional): (N, 1, H, W), False: not seen.

    Returns:
        Tensor: (N, C, H, W).
    """
    gate = sum(_over_positions(maps, valid))
    maps = maps * gate.sigmoid()[:, :, None, None]
    return maps * sum(_over_channels(maps)).sigmoid()


def _over_positions(maps, valid):
    """Mean and maximum of each channel, (N, C) each."""
    mean = masked_mean(maps, (2, 3), valid)[:, :, 0, 0]
    if valid is not None:
        is_empty = ~valid.flatten(1).any(1)[:, None, None, None]
        maps = maps.masked_fill(
            ~valid & ~is_empty, torch.finfo(maps.dtype).min)
    return mean, maps.amax((2, 3))


def _over_channels(maps):
    """Maximum and mean at each position, (N, 1, H, W) each."""
    return maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)


class AttnFDLoss(DistillationLoss):
    """Distance of maps that attention has refined: :func:`attnfd_loss`.

    The student's map goes through an :class:`Attention` and through a 1x1
    convolution with a norm by the statistics of the batch (of all ranks with
    ``sync_ranks``), the teacher's through the same gates without anything to
    learn. What is learned is made at the first call, or by :meth:`build`,
    is trained along with the student and leaves with the loss: the student
    runs without it. It computes in float32, without autocast.

    Padding is 0 in the map of the student and not seen by the gate of the
    channels, but it counts in the statistics of both norms.

    Differs from the official code: there the student is trained, and runs
    later, without its attention as well, but the attention of the teacher is
    one that was never trained, with random weights. It has gates without
    weights, too, and does not use them. The statistics of its norms are
    those of one rank.

    Args:
        norm (str): 'image' or 'batch': what has the length 1. Defaults to
            'image'.
        reduction (int): of the channels, in the student's attention.
            Defaults to 16.
        teacher_attention (bool): whether the teacher's map is refined; False
            for a tap behind an attention of its own. Defaults to True.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> loss = AttnFDLoss()
        >>> student, teacher = torch.rand(2, 4, 6, 6), torch.rand(2, 8, 6, 6)
        >>> 0 < loss(student, teacher).item() < 4
        True
        >>> loss.connector.weight.shape
        torch.Size([8, 4, 1, 1])
    """
    channels = 'any'
    level_reduction = 'sum'
    takes_weight = True
    attention: Any  # None until build(), as the others
    connector: Any
    connector_norm: Any
    needs_positions = True

    def __init__(self,
                 norm: str = 'image',
                 reduction: int = 16,
                 teacher_attention: bool = True):
        super().__init__()
        check_choice('norm', norm, NORMS)
        check_integer('reduction', reduction, minimum=1)
        check_bool('teacher_attention', teacher_attention)
        self.norm = norm
        self.reduction = reduction
        self.teacher_attention = teacher_attention
        for name in ('attention', 'connector', 'connector_norm'):
            self.register_module(name, None)

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make attention and connector, anew if there were any."""
        ours, theirs = student.shape[1], teacher.shape[1]
        self.attention = Attention(ours, self.reduction)
        self.connector = nn.Conv2d(ours, theirs, 1, bias=False)
        self.connector_norm = InputNorm(theirs)
        nn.init.kaiming_normal_(self.connector.weight, mode='fan_out',
                                nonlinearity='relu')
        self.to(student.device)

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a single number, which has no direction."""
        if self.norm == 'image' and teacher[0].numel() == 1:
            raise ValueError(
                'AttnFDLoss compares whole maps of length 1, and this one is '
                'a single number; use a finer level or ValueLoss')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`attnfd_loss`."""
        check_maps(student, teacher, same_channels=False)
        if self.attention is None:
            self.build(student, teacher, None)
        with autocast_off(student):
            student, teacher = full_precision(student, teacher)
            student = student.to(self.connector.weight.dtype)
            valid = None
            if weight is not None:
                normalise_weight(weight, student)  # checks the shape
                valid = weight > 0
                student = student.masked_fill(~valid, 0)
                teacher = teacher.masked_fill(~valid, 0)
            student = self.attention(student, valid, self.sync_ranks)
            student = self.connector_norm(
                self.connector(student), self.sync_ranks)
            if self.teacher_attention:
                teacher = plain_attention(teacher, valid)
            return attnfd_loss(
                student, teacher, weight=weight, norm=self.norm)
