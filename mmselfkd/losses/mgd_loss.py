"""Masked generative distillation: the teacher's map from half of one."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_choice, check_not_negative
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    weighted_mean,
)
from .base import DistillationLoss

REDUCTIONS = ('mean', 'sum')


class Generator(nn.Module):
    """Two 3x3 convolutions with a ReLU between them.

    Args:
        channels (int): of its input, and of what it gives.

    Shape:
        - Input and output: (N, channels, H, W).

    Example:
        >>> import torch
        >>> Generator(4)(torch.rand(1, 4, 5, 6)).shape
        torch.Size([1, 4, 5, 6])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """The generated map; what is not valid (N, 1, H, W) counts as 0."""
        maps = maps.to(self.first.weight.dtype)
        if valid is not None:
            maps = maps.masked_fill(~valid, 0)
        hidden = F.relu(self.first(maps))
        if valid is not None:
            hidden = hidden.masked_fill(~valid, 0)
        return self.second(hidden)


def mgd_loss(student: Tensor,
             teacher: Tensor,
             *,
             weight: Tensor | None = None,
             generator: nn.Module,
             mask: Tensor | None = None,
             reduction: str = 'mean') -> Tensor:
    r"""Squared difference of the teacher and what a generator makes.

    .. math::
        L = \frac{1}{NCHW} \sum_{n,c,h,w}
            \big(g(m \odot F^s)_{nchw} - F^t_{nchw}\big)^2

    :math:`F` (N, C, H, W) are features, :math:`m` (N, 1, H, W) is the mask,
    0 at the positions that the generator :math:`g` must make up from their
    surroundings, and 1 at the others. The value has the square of the unit
    of the teacher's features.

    ``reduction='sum'``, the published form, is the sum over the elements of
    an image, C H W times this mean: it grows with the map. Its weight of
    2e-5 on 2048 channels of 64 x 64 positions, stage 4 of a ResNet-101 at
    512 x 512 pixels, is 168 on the mean.

    Masks: padding and ``foreground`` by ``weight``, whose mean over the
    positions of an image it is; 'sum' is that times C and the number of
    positions that weigh more than 0. The generator sees 0 in what weighs 0.
    Ignored pixels take part: the features of the teacher do not depend on
    labels.

    Differs from the paper: the mean in place of the sum, unless asked for.

    Differs from the official code: as from the paper; the 1x1 convolution
    that makes the channels equal is the adapter of the run.

    Args:
        student (Tensor): features of the student, after an adapter where its
            channels differ from the teacher's.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        generator (nn.Module): a :class:`Generator`, or another module that
            is called with the masked map, and with it and the valid
            positions (N, 1, H, W) where there is a weight.
        mask (Tensor, optional): 0 or 1 for each position. None: nothing is
            masked. Defaults to None.
        reduction (str): 'mean' or 'sum' over the elements of an image.
            Defaults to 'mean'.

    Shape:
        - student, teacher: (N, C, H, W).
        - mask, weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images of the mean or the sum over
        the elements.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Masked Generative Distillation, ECCV 2022, arXiv:2205.01529,
        yzd-v/MGD (2c9da0b).

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
        >>> mask = torch.tensor([1., 0.]).view(1, 1, 1, 2)
        >>> mgd_loss(student, student, generator=torch.nn.Identity(),
        ...          mask=mask).item()
        4.5
    """
    check_maps(student, teacher)
    check_choice('reduction', reduction, REDUCTIONS)
    shape = (len(student), 1, *student.shape[2:])
    if mask is not None and mask.shape != shape:
        raise ValueError(
            f'mask must have shape {shape}, but got {tuple(mask.shape)}')
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if mask is not None:
            student = student * mask.to(student)
        if weight is None:
            loss = F.mse_loss(generator(student), teacher)
            return loss * student[0].numel() if reduction == 'sum' else loss
        loss = (generator(student, weight > 0) - teacher).square()
        if reduction == 'sum':
            count = (weight > 0).sum((1, 2, 3), keepdim=True)
            loss = loss * (count * loss.shape[1])
        return weighted_mean(loss, weight)


class MGDLoss(DistillationLoss):
    """The teacher's map out of a masked one: :func:`mgd_loss`.

    Each call draws a mask. The generator is made at the first call, or by
    :meth:`build`, and is trained along with the student; it computes in
    float32, without autocast.

    Args:
        mask_ratio (float): probability that a position is masked. Defaults
            to 0.75, that for segmentors; the paper's for detectors is 0.65.
        reduction (str): 'mean' or 'sum' over the elements of an image.
            Defaults to 'mean'.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> loss = MGDLoss()
        >>> loss(*torch.rand(2, 1, 4, 6, 6)).backward()
        >>> loss.generator.first.weight.grad.shape
        torch.Size([4, 4, 3, 3])
    """
    channels = 'adapt'
    takes_weight = True
    needs_positions = True
    generator: Any  # a module, or None

    def __init__(self, mask_ratio: float = 0.75, reduction: str = 'mean'):
        super().__init__()
        check_not_negative('mask_ratio', mask_ratio, most=1)
        check_choice('reduction', reduction, REDUCTIONS)
        self.mask_ratio = mask_ratio
        self.reduction = reduction
        self.register_module('generator', None)

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make the generator, anew if there was one."""
        self.generator = Generator(teacher.shape[1]).to(teacher.device)

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`mgd_loss`."""
        check_maps(student, teacher)
        if self.generator is None:
            self.build(student, teacher, None)
        mask = torch.rand(len(student), 1, *student.shape[2:],
                          device=student.device) >= self.mask_ratio
        return mgd_loss(
            student, teacher, generator=self.generator, mask=mask,
            weight=weight, reduction=self.reduction)
