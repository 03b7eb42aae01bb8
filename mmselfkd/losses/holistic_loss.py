"""Score maps compared as a whole by a discriminator (structured KD)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from ..checks import (
    check_bool,
    check_choice,
    check_integer,
    check_not_negative,
)
from ._maps import autocast_off, check_maps
from .base import AdversarialLoss
from .discriminator import Discriminator

MODES = ('wgan-gp', 'hinge')


def holistic_loss(student: Tensor,
                  teacher: Tensor,
                  *,
                  discriminator: nn.Module,
                  image: Tensor | None = None) -> Tensor:
    """The student's term of :class:`HolisticLoss`, -mean D(student).

    The parameters of the discriminator get no gradient, and its spectral
    norms make no power iteration.

    Args:
        student (Tensor): logits of the student, (N, K, H, W).
        teacher (Tensor): logits of the teacher, (N, K, H, W); only checked.
        discriminator (nn.Module): gives scores (N,) of logits and image.
        image (Tensor, optional): (N, 3, H0, W0), for a conditional one.

    Returns:
        Tensor: scalar, the mean over the images.

    Raises:
        ValueError: if shapes do not agree.
    """
    with autocast_off(student):
        student, _, image = _inputs(student, teacher, image, discriminator)
        discriminator.eval()  # no power iteration
        fixed = {
            name: parameter.detach()
            for name, parameter in discriminator.named_parameters()
        }
        return -functional_call(discriminator, fixed, (student, image)).mean()


def holistic_discriminator_loss(student: Tensor,
                                teacher: Tensor,
                                *,
                                discriminator: nn.Module,
                                image: Tensor | None = None,
                                mode: str = 'wgan-gp',
                                gradient_penalty: float = 10.0) -> Tensor:
    """The discriminator's term of :class:`HolisticLoss`, on detached maps.

    Args:
        student (Tensor): logits of the student, (N, K, H, W).
        teacher (Tensor): logits of the teacher, (N, K, H, W).
        discriminator (nn.Module): gives scores (N,) of logits and image; it
            is also called with both sides in one batch and ``batches=2``,
            see :meth:`Discriminator.forward
            <mmselfkd.losses.discriminator.Discriminator.forward>`.
        image (Tensor, optional): (N, 3, H0, W0), for a conditional one.
        mode (str): 'wgan-gp' or 'hinge'. Defaults to 'wgan-gp'.
        gradient_penalty (float): weight of the penalty of 'wgan-gp'.
            Defaults to 10.0.

    Returns:
        Tensor: scalar, the mean over the images, penalty included.

    Raises:
        ValueError: if shapes do not agree or ``mode`` is unknown.
    """
    check_choice('mode', mode, MODES)
    with autocast_off(student):
        student, teacher, image = _inputs(student.detach(), teacher, image,
                                          discriminator)
        discriminator.train()
        # cached: all scores of a step come from one set of weights
        with parametrize.cached():
            both = None if image is None else torch.cat([image, image])
            fake, real = discriminator(
                torch.cat([student, teacher]), both, batches=2).chunk(2)
            if mode == 'hinge':
                return (F.relu(1 - real) + F.relu(1 + fake)).mean()
            loss = (fake - real).mean()
            if gradient_penalty > 0:
                penalty = _penalty(student, teacher, image, discriminator)
                loss = loss + gradient_penalty * penalty
            return loss


def _inputs(student, teacher, image, discriminator):
    """Checked inputs in the precision of the discriminator."""
    check_maps(student, teacher)
    dtype = next(discriminator.parameters()).dtype
    if image is not None:
        image = image.detach().to(dtype)
    return student.to(dtype), teacher.detach().to(dtype), image


def _penalty(student, teacher, image, discriminator):
    """Mean squared distance of the norm of the gradient from 1."""
    share = torch.rand(
        len(student), 1, 1, 1, dtype=student.dtype, device=student.device)
    mixed = (share * teacher + (1 - share) * student).requires_grad_()
    scores = discriminator(mixed, image)
    slope, = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
    norm = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (norm - 1).square().mean()


class HolisticLoss(AdversarialLoss):
    r"""Adversarial loss that makes whole score maps look like the teacher's.

    .. math::
        L = -\frac{1}{N} \sum_{n=1}^{N} D(z^s_n | I_n)

    :math:`z^s_n` (K, H, W) are the student's logits of image :math:`I_n` and
    :math:`D` the score of the discriminator. This term, the result of the
    call, trains the student only. :meth:`discriminator_loss` trains the
    discriminator:

    .. math::
        L_D^{gp} = \frac{1}{N} \sum_{n=1}^{N} D(z^s_n) - D(z^t_n)
            + \lambda (\lVert \nabla_{\hat z_n} D \rVert_2 - 1)^2, \quad
        \hat z_n = a_n z^t_n + (1 - a_n) z^s_n

    .. math::
        L_D^{hinge} = \frac{1}{N} \sum_{n=1}^{N}
            \max(0, 1 - D(z^t_n)) + \max(0, 1 + D(z^s_n))

    with :math:`a_n` uniform in [0, 1), one per image, and :math:`\lambda`
    the ``gradient_penalty``. The gradient is that of the sum of all scores
    by the mixed logits (not by the image). As the discriminator normalises
    its input by the statistics of the batch, it includes the effect of an
    image on the scores of the others.

    The discriminator is created by :meth:`build` or at the first call, on
    the device of the logits; before, ``discriminator`` is None. Creating it
    takes numbers from torch's global generator, and so does drawing
    :math:`a_n`. Its spectral norms make one power iteration in each call of
    :meth:`discriminator_loss`, and none elsewhere. All arithmetic is in the
    precision of the discriminator (float32 as built), without autocast.

    Differs from the paper: a score is the mean of a score map, so that
    logits of any size will do; see
    :class:`~mmselfkd.losses.discriminator.Discriminator`.

    Differs from the official code: its discriminator does not see the image
    (``conditional=False``), and the weight of this term, 0.1, multiplies the
    loss of the discriminator too. The default ``optimizer`` makes up for the
    latter.

    Args:
        mode (str): 'wgan-gp' or 'hinge'. Defaults to 'wgan-gp'.
        conditional (bool): whether the discriminator sees the image.
            Defaults to True.
        gradient_penalty (float): weight of the penalty of 'wgan-gp'; 'hinge'
            has none. Defaults to 10.0.
        penalty_interval (int): in one of so many turns of the discriminator
            the penalty is computed, with so many times its weight, from the
            first on (lazy regularisation, arXiv:1912.04958). Above 1 the
            discriminator sees other gradients: the same on average over the
            turns, not in each. Defaults to 1.
        width (int): channels of the discriminator's first block, 2 or more;
            its cost and its parameters fall with the square. Another width
            is another discriminator. Defaults to 64, the official one.
        optimizer (dict, optional): config of the discriminator's optimizer,
            kept as ``optimizer_cfg`` for the training loop; this module never
            steps it. Defaults to SGD with lr=4e-5, momentum=0.9 and
            weight_decay=5e-3, which is the official SGD (4e-4, 0.9, 5e-4)
            on a tenth of this loss.

    Shape:
        - student, teacher: (N, K, H, W), H and W of 1 or more.
        - image: (N, 3, H0, W0) or another number of channels; resized to the
          logits bilinearly.

    Returns:
        Tensor: scalar, the mean over the images.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree, an argument is out of range or
            the image is missing.

    Reference:
        Structured Knowledge Distillation for Semantic Segmentation, CVPR
        2019, and Structured Knowledge Distillation for Dense Prediction,
        TPAMI 2020, both arXiv:1903.04197,
        irfanICMLL/structure_knowledge_distillation (ce208e1).

    Example:
        >>> import torch
        >>> holistic = HolisticLoss(conditional=False)
        >>> student = torch.rand(2, 5, 8, 8, requires_grad=True)
        >>> teacher = torch.rand(2, 5, 8, 8)
        >>> holistic(student, teacher).backward()
        >>> all(p.grad is None for p in holistic.discriminator.parameters())
        True
        >>> holistic.discriminator_loss(student, teacher).backward()
        >>> holistic.discriminator.score.weight.grad.shape
        torch.Size([1, 512, 4, 4])
    """
    channels = 'classes'

    def __init__(self,
                 mode: str = 'wgan-gp',
                 conditional: bool = True,
                 gradient_penalty: float = 10.0,
                 optimizer: dict | None = None,
                 penalty_interval: int = 1,
                 width: int = 64):
        check_choice('mode', mode, MODES)
        check_bool('conditional', conditional)
        check_not_negative('gradient_penalty', gradient_penalty)
        check_integer('penalty_interval', penalty_interval, minimum=1)
        check_integer('width', width, minimum=2)
        if optimizer is None:
            optimizer = dict(
                type='SGD', lr=4e-5, momentum=0.9, weight_decay=5e-3)
        super().__init__(optimizer)
        self.mode = mode
        self.conditional = conditional
        self.gradient_penalty = gradient_penalty
        self.penalty_interval = penalty_interval
        self.width = width
        self.needs_image = conditional
        self.turn: Tensor
        if penalty_interval > 1:  # kept in checkpoints
            self.register_buffer('turn', torch.tensor(0))

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make the discriminator, anew if there was one."""
        channels = 0
        if self.conditional:
            assert image is not None
            channels = image.shape[1]
        self.discriminator = Discriminator(
            student.shape[1], channels, self.width).to(student.device)

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                image: Tensor | None = None) -> Tensor:
        """The student's term: :func:`holistic_loss`."""
        self._prepare(student, teacher, image)
        return holistic_loss(
            student, teacher, image=image, discriminator=self.discriminator)

    def discriminator_loss(self,
                           student: Tensor,
                           teacher: Tensor,
                           *,
                           image: Tensor | None = None) -> Tensor:
        """The discriminator's: :func:`holistic_discriminator_loss`."""
        self._prepare(student, teacher, image)
        penalty = self.gradient_penalty
        if self.penalty_interval > 1:
            is_due = int(self.turn) % self.penalty_interval == 0
            penalty *= self.penalty_interval * is_due
        return holistic_discriminator_loss(
            student, teacher, image=image, discriminator=self.discriminator,
            mode=self.mode, gradient_penalty=penalty)

    def end_turn(self) -> None:
        """Count a turn, by which ``penalty_interval`` goes."""
        if self.penalty_interval > 1:
            self.turn += 1

    def _prepare(self, student, teacher, image):
        check_maps(student, teacher)
        if self.conditional and image is None:
            raise ValueError('image must be a tensor of shape (N, C, H, W) '
                             'with conditional=True, but got None')
        if self.discriminator is None:
            self.build(student, teacher, image)
        self.discriminator.sync_ranks = self.sync_ranks
