"""FGD: focal and global distillation of the features of detectors."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_not_negative, check_positive
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
)
from .base import DistillationLoss


class ContextBlock(nn.Module):
    r"""A block of GCNet: a map and what all of it says to each position.

    .. math::
        g(F) = F + W_2\,\mathrm{ReLU}(\mathrm{LN}(
            W_1 \sum_p \mathrm{softmax}_p(w F_p)\, F_p))

    The last layer starts at 0, and so the block as the identity.

    Args:
        channels (int): of its input, and of what it gives.

    Shape:
        - Input and output: (N, channels, H, W).

    Example:
        >>> import torch
        >>> maps = torch.rand(1, 4, 5, 6)
        >>> torch.equal(ContextBlock(4)(maps), maps)
        True
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 2, 1)
        self.mask = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.mask.weight, mode='fan_in')
        self.add = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        for parameter in self.add[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """What is not valid (N, 1, H, W) says nothing."""
        maps = maps.to(self.mask.weight.dtype)
        share = _softmax(self.mask(maps), valid)
        context = maps.flatten(2) @ share.flatten(2).transpose(1, 2)
        return maps + self.add(context[..., None])


def fgd_loss(student: Tensor,
             teacher: Tensor,
             *,
             objects: Tensor,
             weight: Tensor | None = None,
             context: tuple[Any, Any] | None = None,
             alpha: float = 1e-3,
             beta: float = 5e-4,
             gamma: float = 5e-4,
             lambda_: float = 5e-6,
             temperature: float = 0.5) -> Tensor:
    r"""Squared differences by objects and attention, and of the context.

    .. math::
        L = \frac{1}{N} \sum_n \Big[
            \sum_{c,p} \big(\alpha M^f_{np} + \beta M^b_{np}\big)
                A^{S,t}_{np} A^{C,t}_{nc} (F^s_{ncp} - F^t_{ncp})^2
          + \gamma \sum_p |A^{S,s}_{np} - A^{S,t}_{np}|
          + \gamma \sum_c |A^{C,s}_{nc} - A^{C,t}_{nc}|
          + \lambda \sum_{c,p} (g^s(F^s) - g^t(F^t))_{ncp}^2 \Big]

    :math:`F` (N, C, P) are features at the P = H W positions. The attention
    is :math:`A^S = P\,\mathrm{softmax}_p(\frac{1}{CT} \sum_c |F_{cp}|)` of a
    position and :math:`A^C = C\,\mathrm{softmax}_c(\frac{1}{PT}
    \sum_p |F_{cp}|)` of a channel, with the temperature T.
    :math:`M^f` is 1 through the positions of the smallest object that covers
    a position, and :math:`M^b` is 1 through the positions of the background
    where no object does. :math:`g` are two :class:`ContextBlock`, which
    learn along.

    The value has the square of the unit of the features. It is the published
    form: a sum over the channels, and in the third and the last term over
    the positions, so these grow with the map.

    Masks: padding by ``weight``: where it is 0, a position takes no part and
    does not count in P. Of other weights their size does not matter. Ignored
    pixels take part: features do not depend on labels.

    Differs from the paper: in nothing that is known.

    Differs from the official code: that one rounds boxes outwards and adds a
    row and a column, has 1 / ((h + 1) (w + 1)) also where the border cuts an
    object, and scales boxes by the image where the map is that of the padded
    batch, so that masks are shifted in padded batches. Here the positions
    whose centre lies in the box are counted. Its class has the default
    gamma of 1e-3, its configs that of here.

    Args:
        student (Tensor): features of the student, after an adapter where its
            channels differ from the teacher's.
        teacher (Tensor): features of the teacher; detached here.
        objects (Tensor): one through the positions of the smallest object
            that covers a position, 0 in the background.
        weight (Tensor, optional): what weighs 0, such as padding, takes no
            part. None: all takes part. Defaults to None.
        context (tuple, optional): a :class:`ContextBlock` for the student
            and one for the teacher, which are called with a map and, where
            there is a weight, what is valid (N, 1, H, W). None: without the
            last term. Defaults to None.
        alpha (float): weight of the objects. Defaults to 1e-3.
        beta (float): weight of the background. Defaults to 5e-4.
        gamma (float): weight of the attention. Defaults to 5e-4.
        lambda_ (float): weight of the context. Defaults to 5e-6.
        temperature (float): of the attention. Defaults to 0.5.

    Shape:
        - student, teacher: (N, C, H, W).
        - objects, weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the images of these sums.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Focal and Global Knowledge Distillation for Detectors, CVPR 2022,
        arXiv:2111.11837, yzd-v/FGD.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> objects = torch.tensor([1., 0.]).view(1, 1, 1, 2)
        >>> fgd_loss(student, teacher, objects=objects, alpha=1.0, beta=2.0,
        ...          gamma=0.0).item()
        3.0
    """
    check_maps(student, teacher)
    _check_arguments(alpha, beta, gamma, lambda_, temperature)
    shape = (len(student), 1, *student.shape[2:])
    if objects.shape != shape:
        raise ValueError(f'objects must have shape {shape}, but got '
                         f'{tuple(objects.shape)}')
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        objects = objects.detach().to(student)
        valid = None
        if weight is not None:
            normalise_weight(weight, student)  # checks the shape
            valid = weight > 0
            student, teacher = (
                x.masked_fill(~valid, 0) for x in (student, teacher))
            objects = objects.masked_fill(~valid, 0)
        ours, theirs = _attentions(student, teacher, temperature, valid)
        outside = objects == 0 if valid is None else (objects == 0) & valid
        count = outside.sum((1, 2, 3), keepdim=True).clamp(min=1)
        mask = alpha * objects + beta * outside / count
        positions, channels = (x.to(student) for x in theirs)
        square = (student - teacher).square().flatten(2)
        loss = (mask * positions * (
            channels.flatten(2).mT @ square).view_as(mask)).sum()
        loss = loss + gamma * sum(
            (a - b).abs().sum() for a, b in zip(ours, theirs)).to(student)
        if context is not None and lambda_:
            options = () if valid is None else (valid, )
            difference = (context[0](student, *options)
                          - context[1](teacher, *options))
            if valid is not None:
                difference = difference.masked_fill(~valid, 0)
            loss = loss + lambda_ * difference.square().sum()
        return loss / len(student)


def _attentions(student, teacher, temperature, valid):
    """Of both: of positions (N, 1, H, W) and of channels (N, C, 1, 1).

    Near the teacher rounding would decide on the sign of the differences,
    and so on the slope of their size. So the student's means are those of
    the teacher and of the difference, and what follows is in float64.
    """
    size = teacher.abs()
    beyond = student.abs() - size
    count = size[0, 0].numel() if valid is None else valid.sum(
        (1, 2, 3), keepdim=True).clamp(min=1)

    def means(maps):
        # what is not valid is 0
        return (maps.mean(1, keepdim=True).double(),
                maps.sum((2, 3), keepdim=True).double() / count)

    theirs = means(size)
    ours = (a + b for a, b in zip(theirs, means(beyond)))
    for at, of in (ours, theirs):
        yield (count * _softmax(at / temperature, valid),
               size.shape[1] * F.softmax(of / temperature, dim=1))


def _softmax(scores, valid):
    """Over the valid positions of an image; 0 in the others."""
    if valid is not None:
        # finite, for an image without any
        scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
    share = F.softmax(scores.flatten(2), dim=2).view_as(scores)
    return share if valid is None else share.masked_fill(~valid, 0)


def _check_arguments(alpha, beta, gamma, lambda_, temperature):
    for name, value in (('alpha', alpha), ('beta', beta), ('gamma', gamma),
                        ('lambda_', lambda_)):
        check_not_negative(name, value)
    check_positive('temperature', temperature)


class FGDLoss(DistillationLoss):
    """Focal and global distillation: :func:`fgd_loss`.

    Its two context blocks are made at the first call, or by :meth:`build`,
    and are trained along with the student; they compute in float32, without
    autocast.

    Args:
        alpha (float): weight of the objects. Defaults to 1e-3.
        beta (float): weight of the background. Defaults to 5e-4.
        gamma (float): weight of the attention. Defaults to 5e-4.
        lambda_ (float): weight of the context; at 0 there are no blocks.
            Defaults to 5e-6.
        temperature (float): of the attention. Defaults to 0.5.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> loss, objects = FGDLoss(), torch.zeros(1, 1, 6, 6)
        >>> loss(*torch.rand(2, 1, 4, 6, 6), objects=objects).backward()
        >>> loss.student_context.mask.weight.grad.shape
        torch.Size([1, 4, 1, 1])
    """
    channels = 'adapt'
    level_reduction = 'sum'
    takes_weight = True
    needs_objects = True
    needs_positions = True
    student_context: Any  # modules, or None
    teacher_context: Any

    def __init__(self,
                 alpha: float = 1e-3,
                 beta: float = 5e-4,
                 gamma: float = 5e-4,
                 lambda_: float = 5e-6,
                 temperature: float = 0.5):
        super().__init__()
        _check_arguments(alpha, beta, gamma, lambda_, temperature)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.lambda_ = lambda_
        self.temperature = temperature
        self.register_module('student_context', None)
        self.register_module('teacher_context', None)

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make the context blocks, anew if there were some."""
        if self.lambda_:
            self.student_context, self.teacher_context = (
                ContextBlock(teacher.shape[1]).to(teacher.device)
                for _ in 'st')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                objects: Tensor,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`fgd_loss`."""
        check_maps(student, teacher)
        if self.student_context is None:
            self.build(student, teacher, None)
        return fgd_loss(
            student, teacher, objects=objects, weight=weight,
            context=(self.student_context, self.teacher_context)
            if self.lambda_ else None, alpha=self.alpha, beta=self.beta,
            gamma=self.gamma, lambda_=self.lambda_,
            temperature=self.temperature)
