"""Agreement of mixed images with mixed outputs (MixSKD)."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..checks import check_choice, check_integer, check_positive
from ._maps import autocast_off, check_maps, full_precision
from .base import AdversarialLoss, DistillationLoss
from .kd_loss import (
    ACTIVATIONS,
    check_ignore_index,
    check_softmax,
    kd_loss,
)


def mixskd_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two feature maps that both learn.

    .. math::
        L = \frac{1}{NCHW} \sum_{n,c,h,w}
            (F'_{nchw} - \tilde F_{nchw})^2

    :math:`F'` = ``student`` (N, C, H, W) is interpolated from the features
    of the plain images and :math:`\tilde F` = ``teacher`` (N, C, H, W) is
    what the same network makes of the mixed images.

    Both maps come from the network in training, so, unlike in the other
    losses, the teacher is not detached: both get a gradient.

    Differs from the paper: it is about classification; maps of any size are
    ours.

    Differs from the official code: none is known.

    Args:
        student (Tensor): interpolated features of the plain images.
        teacher (Tensor): features of the mixed images; not detached.

    Shape:
        - student, teacher: (N, C, H, W).

    Returns:
        Tensor: scalar, the mean over all elements.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree.

    Reference:
        MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition,
        ECCV 2022, arXiv:2208.05768, winycg/Self-KD-Lib (ede3062).

    Example:
        >>> import torch
        >>> student = torch.tensor([1., 4.]).view(1, 2, 1, 1)
        >>> mixskd_feature_loss(student, torch.ones(1, 2, 1, 1)).item()
        4.5
    """
    check_maps(student, teacher)
    with autocast_off(student):
        first, _ = full_precision(student, teacher)
        second, _ = full_precision(teacher, student)
        return (first - second).square().mean()


def mixskd_logit_loss(student: Tensor,
                      teacher: Tensor,
                      *,
                      label: Tensor | None = None,
                      temperature: float = 3.0,
                      ignore_index: int | None = 255,
                      activation: str = 'softmax',
                      sync_ranks: bool = False) -> Tensor:
    r"""Soft labels of two predictions for each other.

    .. math::
        L = \mathrm{KD}(z', \mathrm{sg}[\tilde z])
            + \mathrm{KD}(\tilde z, \mathrm{sg}[z'])

    :math:`\mathrm{KD}(z^s, z^t)` is :func:`~mmselfkd.losses.kd_loss`, with
    the square of the temperature and the mean over the valid pixels,
    :math:`z'` = ``student`` (N, K, H, W) is interpolated from the logits of
    the plain images, :math:`\tilde z` = ``teacher`` (N, K, H, W) are the
    logits of the mixed images and sg takes the gradient away.

    Both maps come from the network in training, so, unlike in the other
    losses, each is the teacher once and both get a gradient.

    Differs from the paper: it has one score vector per image; here every
    pixel is a sample.

    Differs from the official code: no other difference is known.

    Args:
        student (Tensor): interpolated logits of the plain images.
        teacher (Tensor): logits of the mixed images.
        label (Tensor, optional): integer class labels, of any size, in which
            ``ignore_index`` marks what takes no part; resized to the logits
            by nearest neighbour. Defaults to None.
        temperature (float): divides both logits. Defaults to 3.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to 255.
        activation (str): 'softmax' or 'sigmoid'. Defaults to 'softmax'.
        sync_ranks (bool): see :func:`~mmselfkd.losses.kd_loss`. Defaults to
            False.

    Shape:
        - student, teacher: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).

    Returns:
        Tensor: scalar, the mean over the valid pixels of the batch (a sum
        over the classes and the two directions).

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition,
        ECCV 2022, arXiv:2208.05768, winycg/Self-KD-Lib (ede3062).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 1)
        >>> teacher = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
        >>> loss = mixskd_logit_loss(student, teacher, temperature=1.0)
        >>> round(loss.item(), 4)
        0.2747
    """
    options: dict[str, Any] = dict(
        label=label, temperature=temperature, ignore_index=ignore_index,
        activation=activation, sync_ranks=sync_ranks)
    return (kd_loss(student, teacher, **options)
            + kd_loss(teacher, student, **options))


class MixSKDFeatureLoss(DistillationLoss):
    """Features that learn from each other: :func:`mixskd_feature_loss`.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> MixSKDFeatureLoss()(features, features).item()
        0.0
    """
    channels = 'equal'
    level_reduction = 'sum'

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`mixskd_feature_loss`."""
        return mixskd_feature_loss(student, teacher)


class MixSKDLogitLoss(DistillationLoss):
    """Logits that learn from each other: :func:`mixskd_logit_loss`.

    Args:
        temperature (float): divides both logits. Defaults to 3.0.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every pixel takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to 'head'.
        activation (str, optional): 'softmax' or 'sigmoid'. None: the one of
            the student's head, or 'softmax' without a run. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> MixSKDLogitLoss()(logits, logits).item()
        0.0
    """
    channels = 'classes'
    level_reduction = 'sum'

    def __init__(self,
                 temperature: float = 3.0,
                 ignore_index: int | str | None = 'head',
                 activation: str | None = None):
        super().__init__()
        check_positive('temperature', temperature)
        check_ignore_index(ignore_index)
        if activation is not None:
            check_choice('activation', activation, ACTIVATIONS)
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.activation = activation
        self.needs_label = ignore_index is not None

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a softmax over one channel."""
        check_softmax(self, student)

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None) -> Tensor:
        """See :func:`mixskd_logit_loss`."""
        return mixskd_logit_loss(
            student, teacher, label=label, temperature=self.temperature,
            ignore_index=self.ignored_label,
            activation=self.activation or 'softmax',
            sync_ranks=self.sync_ranks)


class FeatureDiscriminator(nn.Module):
    """Tell two kinds of feature maps apart by their global averages.

    The mean over all positions, a linear layer, ReLU and a linear layer of
    two outputs, one logit for each kind.

    Differs from the official code: there it stands in a plain list, where no
    optimizer finds it, so it never learns.

    Args:
        channels (int): channels of the features.
        hidden (int): width between the two layers. Defaults to 128.

    Shape:
        - features: one or more (N, channels, H, W).
        - Output: (N, 2), of several batches one after another.

    Raises:
        ValueError: if an argument is out of range or shapes do not agree.

    Reference:
        MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition,
        ECCV 2022, arXiv:2208.05768, winycg/Self-KD-Lib (ede3062).

    Example:
        >>> import torch
        >>> discriminator = FeatureDiscriminator(16)
        >>> discriminator(torch.rand(4, 16, 8, 5)).shape
        torch.Size([4, 2])
    """

    def __init__(self, channels: int, hidden: int = 128):
        super().__init__()
        for name, value in (('channels', channels), ('hidden', hidden)):
            if value < 1:
                raise ValueError(
                    f'{name} must be 1 or more, but got {value!r}')
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, *features: Tensor) -> Tensor:
        """Two logits for every map, of all batches one after another."""
        for maps in features:
            if maps.ndim != 4 or maps.shape[1] != self.channels:
                raise ValueError(
                    f'features must have shape (N, {self.channels}, H, W), '
                    f'but got {tuple(maps.shape)}')
        return self.layers(torch.cat([x.mean((2, 3)) for x in features]))


class MixSKDAdversarialLoss(AdversarialLoss):
    r"""Adversarial loss that makes two kinds of features hard to tell apart.

    .. math::
        L_{dis} = \frac{1}{2} \mathrm{BCE}(D(\bar F'), [1, 0])
            + \frac{1}{2} \mathrm{BCE}(D(\bar{\tilde F}), [0, 1]), \quad
        \bar F_{nc} = \frac{1}{HW} \sum_{h,w} F_{nchw}

    :math:`F'` = ``student`` (N, C, H, W) is interpolated from the features
    of the plain images, :math:`\tilde F` = ``teacher`` (N, C, H, W) is what
    the same network makes of the mixed images, :math:`D` (N, 2) are the
    logits of the discriminator and BCE is the binary cross entropy with
    logits, a mean over the N images and the 2 logits. So the loss is one
    mean over both kinds of maps.

    The result of the call has this value and the reversed gradient. It
    trains the network to raise what the discriminator lowers, and gives the
    discriminator no gradient. :meth:`discriminator_loss` is the same value on
    detached maps and trains the discriminator. Both maps come from the
    network in training, so, unlike in the other losses, the teacher is not
    detached: both get a gradient.

    The discriminator (:class:`FeatureDiscriminator`) is
    created at the first call, or by :meth:`build`, on the device of the
    maps; before, ``discriminator`` is None. Creating it takes numbers from
    torch's global generator. All arithmetic is in the precision of the
    discriminator (float32 as built), without autocast.

    Differs from the paper: it is about classification; maps of any size are
    ours. So is the optimizer of the discriminator, which could not be read.

    Differs from the official code: there no optimizer has the
    discriminators, so they never learn, and the gradient is not reversed, so
    the network is trained to help them.

    Args:
        hidden (int): width between the two layers of the discriminator.
            Defaults to 128.
        optimizer (dict, optional): config of the discriminator's optimizer,
            kept as ``optimizer_cfg`` for the training loop; this module never
            steps it. Defaults to SGD with lr=0.01, momentum=0.9 and
            weight_decay=1e-4.

    Shape:
        - student, teacher: (N, C, H, W).

    Returns:
        Tensor: scalar, the mean over the images, the two kinds of maps and
        the two logits.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition,
        ECCV 2022, arXiv:2208.05768, winycg/Self-KD-Lib (ede3062).

    Example:
        >>> import torch
        >>> adversarial = MixSKDAdversarialLoss()
        >>> student = torch.rand(2, 16, 8, 8, requires_grad=True)
        >>> teacher = torch.rand(2, 16, 8, 8, requires_grad=True)
        >>> adversarial(student, teacher).backward()
        >>> student.grad.shape == teacher.grad.shape
        True
        >>> [p.grad for p in adversarial.discriminator.parameters()]
        [None, None, None, None]
        >>> adversarial.discriminator_loss(student, teacher).backward()
        >>> adversarial.discriminator.layers[0].weight.grad.shape
        torch.Size([128, 16])
    """
    channels = 'equal'
    level_reduction = 'sum'

    def __init__(self, hidden: int = 128, optimizer: dict | None = None):
        check_integer('hidden', hidden, minimum=1)
        if optimizer is None:
            optimizer = dict(
                type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
        super().__init__(optimizer)
        self.hidden = hidden

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None = None) -> None:
        """Make the discriminator, anew if there was one."""
        self.discriminator = FeatureDiscriminator(
            student.shape[1], self.hidden).to(student.device)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The network's term, with the reversed gradient."""
        self._prepare(student, teacher)
        fixed = {
            name: parameter.detach()
            for name, parameter in self.discriminator.named_parameters()
        }
        loss = self._value(student, teacher, fixed)
        return 2 * loss.detach() - loss

    def discriminator_loss(self,
                           student: Tensor,
                           teacher: Tensor,
                           *,
                           image: Tensor | None = None) -> Tensor:
        """The discriminator's term; it sees no image and draws nothing."""
        self._prepare(student, teacher)
        return self._value(student.detach(), teacher.detach(), {})

    def _value(self, student, teacher, parameters):
        """The loss, by ``parameters`` in place of the discriminator's."""
        with autocast_off(student):
            dtype = next(self.discriminator.parameters()).dtype
            scores = functional_call(
                self.discriminator, parameters,
                (student.to(dtype), teacher.to(dtype)))
            target = torch.eye(2, dtype=dtype, device=scores.device)
            target = target.repeat_interleave(len(student), 0)
            return F.binary_cross_entropy_with_logits(scores, target)

    def _prepare(self, student, teacher):
        check_maps(student, teacher)
        if self.discriminator is None:
            self.build(student, teacher)
