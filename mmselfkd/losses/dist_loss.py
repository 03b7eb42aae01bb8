"""DIST: the order of the classes of a pixel and of the pixels of a class."""
import torch.nn.functional as F
from torch import Tensor

from ..checks import (
    check_choice,
    check_integer_or_none,
    check_not_negative,
    check_positive,
)
from ._maps import (
    autocast_off,
    channel_correlation_loss,
    check_maps,
    correlation,
    full_precision,
    mean_over,
    tempered,
    weight_of_valid,
)
from .base import DistillationLoss
from .kd_loss import ACTIVATIONS, check_ignore_index, check_softmax


def dist_loss(student: Tensor,
              teacher: Tensor,
              *,
              label: Tensor | None = None,
              weight: Tensor | None = None,
              beta: float = 1.0,
              gamma: float = 1.0,
              temperature: float = 1.0,
              ignore_index: int | None = None,
              activation: str = 'softmax',
              sync_ranks: bool = False) -> Tensor:
    r"""Pearson's correlation of class scores, along classes and along pixels.

    .. math::
        L = \beta \Big(1 - \frac{1}{|V|} \sum_{p \in V}
            \rho(y^s_{p,:}, y^t_{p,:})\Big)
          + \gamma \Big(1 - \frac{1}{K} \sum_{k=1}^{K}
            \rho(y^s_{:,k}, y^t_{:,k})\Big), \quad
        \rho(a, b) = \frac{\langle a - \bar a, b - \bar b \rangle}
            {\lVert a - \bar a \rVert \lVert b - \bar b \rVert + 10^{-8}}

    :math:`y` (P, K) are the class probabilities, the softmax (or sigmoid) of
    the logits divided by the temperature, of the P = N * H * W pixels
    :math:`V` of the batch. The first term compares the classes of a pixel
    (inter-class), the second the pixels of the batch in a class
    (intra-class).

    Masks: padding and ``foreground`` by ``weight``, and with
    ``ignore_index`` the ignored pixels: mean, norm and product of the second
    term and the mean of the first are weighted ones. Where nothing weighs
    more than 0 the loss is 0.

    Differs from the paper: in nothing that is known; it has no masks.

    Differs from the official code, that for segmentation: values that are
    all the same, to a norm of 1e-6, have the correlation 0 and no gradient;
    there it is up to 1e8. The port in mmrazor multiplies by the square of
    the temperature, and on maps takes the second correlation over the images
    at each position, which is another quantity.

    Args:
        student (Tensor): logits of the student.
        teacher (Tensor): logits of the teacher; detached here.
        label (Tensor, optional): integer class labels, of any size; resized
            to the logits by nearest neighbour. Defaults to None.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        beta (float): weight of the inter-class term. Defaults to 1.0.
        gamma (float): weight of the intra-class term. Defaults to 1.0.
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to None.
        activation (str): 'softmax' or 'sigmoid'. Defaults to 'softmax'.
        sync_ranks (bool): whether the pixels are those of all ranks, each of
            which makes this call then. Defaults to False.

    Shape:
        - student, teacher: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, from 0 to 2 (beta + gamma).

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
        arXiv:2205.10536, hunto/DIST_KD (2418f18).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2., 0.], [0., 2.]]).view(1, 2, 1, 2)
        >>> round(dist_loss(logits, 3 * logits).item(), 4)
        0.0
        >>> round(dist_loss(logits, logits.flip(3)).item(), 4)
        4.0
    """
    check_maps(student, teacher)
    _check_arguments(beta, gamma, temperature)
    check_integer_or_none('ignore_index', ignore_index)
    check_choice('activation', activation, ACTIVATIONS)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = weight_of_valid(student, label, ignore_index, weight)
        student, teacher = (
            x.sigmoid() if activation == 'sigmoid' else F.softmax(x, dim=1)
            for x in (tempered(student, temperature),
                      tempered(teacher, temperature)))
        inter = correlation(
            student - student.mean(1, keepdim=True),
            teacher - teacher.mean(1, keepdim=True),
            lambda x: x.sum(1, keepdim=True))
        loss = beta * mean_over(1 - inter, weight, sync_ranks)
        return loss + gamma * channel_correlation_loss(
            student, teacher, weight, sync_ranks)


def _check_arguments(beta, gamma, temperature):
    check_not_negative('beta', beta)
    check_not_negative('gamma', gamma)
    check_positive('temperature', temperature)


class DISTLoss(DistillationLoss):
    """Correlations of class scores: :func:`dist_loss`.

    Args:
        beta (float): weight of the inter-class term. Defaults to 1.0.
        gamma (float): weight of the intra-class term. Defaults to 1.0.
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every pixel takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to None.
        activation (str, optional): 'softmax' or 'sigmoid'. None: the one of
            the student's head, or 'softmax' without a run. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> abs(DISTLoss()(logits, logits).item()) < 1e-5
        True
    """
    channels = 'classes'
    takes_weight = True

    def __init__(self,
                 beta: float = 1.0,
                 gamma: float = 1.0,
                 temperature: float = 1.0,
                 ignore_index: int | str | None = None,
                 activation: str | None = None):
        super().__init__()
        _check_arguments(beta, gamma, temperature)
        check_ignore_index(ignore_index)
        if activation is not None:
            check_choice('activation', activation, ACTIVATIONS)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.activation = activation
        self.needs_label = ignore_index is not None

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse correlations of one or two numbers, which are constant."""
        check_softmax(self, student)
        classes, pixels = student.shape[1], student[:, 0].numel()
        if not (self.beta and classes > 2 or self.gamma and pixels > 2):
            raise ValueError(
                f'DISTLoss(beta={self.beta:g}, gamma={self.gamma:g}) '
                f'correlates {classes} classes (beta) and {pixels} pixels '
                '(gamma), and of one or two numbers the correlation is '
                "constant; use type='KDLoss' with source='logits'")

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`dist_loss`."""
        return dist_loss(
            student, teacher, label=label, weight=weight, beta=self.beta,
            gamma=self.gamma, temperature=self.temperature,
            ignore_index=self.ignored_label,
            activation=self.activation or 'softmax',
            sync_ranks=self.sync_ranks)
