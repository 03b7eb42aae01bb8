"""Soft labels of the teacher, pixel by pixel."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import (
    check_bool,
    check_choice,
    check_integer,
    check_integer_or_none,
    check_positive,
    is_integer,
)
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    mean_over,
    normalise_weight,
    resize_label,
)
from .base import DistillationLoss
from .ka_dtd import (
    ADJUSTMENTS,
    CWSM,
    DYNAMIC_TEMPERATURES,
    FLSW,
    LabelSmoothing,
    ProbabilityShift,
    build_option,
)

Adjustment = dict | ProbabilityShift | LabelSmoothing
DynamicTemperature = dict | FLSW | CWSM
ACTIVATIONS = ('softmax', 'sigmoid')


def kd_loss(student: Tensor,
            teacher: Tensor,
            *,
            label: Tensor | None = None,
            weight: Tensor | None = None,
            temperature: float = 1.0,
            ignore_index: int | None = 255,
            adjust: Adjustment | None = None,
            dynamic_temperature: DynamicTemperature | None = None,
            activation: str = 'softmax',
            groups: int = 1,
            standardise: bool = False,
            sync_ranks: bool = False) -> Tensor:
    r"""Kullback-Leibler divergence of the class scores at every pixel.

    .. math::
        L = \frac{T^2}{|V|} \sum_{p \in V} \sum_{k=1}^{K}
            q^t_{p,k} (\log q^t_{p,k} - \log q^s_{p,k}), \quad
        q_p = \mathrm{softmax}_k(z_p / T)

    :math:`z_p` (K) are the logits of pixel :math:`p`, :math:`q_p` (K) its
    class probabilities, :math:`V` the set of valid pixels of the batch and
    :math:`T` the temperature.

    With ``activation='sigmoid'``, which most detection heads have, each class
    is a yes-or-no question of its own. The divergence is then the binary
    one, summed over the classes:

    .. math::
        L = \frac{T^2}{|V|} \sum_{p \in V} \sum_{k=1}^{K}
            q^t_{p,k} \log \frac{q^t_{p,k}}{q^s_{p,k}}
            + (1 - q^t_{p,k}) \log \frac{1 - q^t_{p,k}}{1 - q^s_{p,k}}, \quad
        q_{p,k} = \sigma(z_{p,k} / T)

    With ``groups`` the channels of a pixel hold several distributions, one
    after the other, like the 4 sides of 17 bins of a box in GFL. Each has a
    softmax of its own, and the loss is the mean over them.

    A pixel is valid unless its label is ``ignore_index``. Without labels, or
    with ``ignore_index=None``, all pixels are valid, so images without
    annotation distil too. Without any valid pixel the loss and its gradient
    are exactly 0.

    Two options correct and soften the soft labels. With both of them

    .. math::
        L = \frac{1}{|V|} \sum_{p \in V} \tau_p^2 \sum_{k=1}^{K}
            \tilde q^t_{p,k} (\log \tilde q^t_{p,k} - \log q^s_{p,k}), \quad
        q_p = \mathrm{softmax}_k(z_p / \tau_p)

    ``adjust`` turns :math:`q^t_p` into :math:`\tilde q^t_p` where the
    teacher's top class is not the label: it swaps the two probabilities
    (:class:`~mmselfkd.losses.ka_dtd.ProbabilityShift`) or replaces the row
    by a smoothed label (:class:`~mmselfkd.losses.ka_dtd.LabelSmoothing`).
    Without labels, and where the label is no class, it does nothing.

    ``dynamic_temperature`` gives every pixel a temperature :math:`\tau_p`
    about :math:`T`, the same for student and teacher. It is lower where the
    student is further from the teacher
    (:class:`~mmselfkd.losses.ka_dtd.FLSW`) or less sure
    (:class:`~mmselfkd.losses.ka_dtd.CWSM`). It is computed from the logits
    before any adjustment, and it has no gradient.

    ``standardise`` takes the mean of the logits of a pixel away and divides
    by their deviation, in student and teacher each, before any temperature:

    .. math::
        \hat z_p = \frac{z_p - \bar z_p}{\sigma(z_p) + 10^{-7}}, \quad
        \sigma(z_p)^2 = \frac{1}{K - 1} \sum_k (z_{p,k} - \bar z_p)^2

    The student is then free in the range of its logits. The official
    temperature is 2, with a weight of 9. Logits that are all the same, to a
    deviation of 1e-6, stay as they are. The code of that paper has K - 1, as
    here; with K the temperature would be smaller by the root of (K - 1) / K.
    It standardises the last axis, which of a map is its width.

    With ``weight`` the sums over V are weighted, and :math:`|V|` is the sum
    of the weights.

    Differs from the paper: it has one score vector per image; here every
    pixel is a sample. Its second term, the cross entropy with the label, is
    the task loss of the student and not part of this function. The paper of
    the two options has one row and one temperature per image; whether it
    multiplies by the square of the temperature is not known here.

    Differs from the official code: that of structured knowledge
    distillation, which brought this term to segmentation, has the cross
    entropy instead of the divergence (same gradient), T = 1 and all pixels
    valid, and it divides by H * W only. Its weight times N is the weight of
    this loss.

    Args:
        student (Tensor): logits of the student.
        teacher (Tensor): logits of the teacher; detached here.
        label (Tensor, optional): integer class labels, of any size; resized
            to the logits by nearest neighbour. Defaults to None.
        weight (Tensor, optional): weights of the positions, 0 or more.
            Positions of weight 0, such as padding, take no part. None: equal
            weights. Defaults to None.
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to 255.
        adjust (dict, optional): ``dict(type='ProbabilityShift')`` or
            ``dict(type='LabelSmoothing', correct=0.9)``. Defaults to None.
        dynamic_temperature (dict, optional): ``dict(type='FLSW', beta=1.0,
            gamma=1.0, minimum=1.0, mean='batch')`` or ``dict(type='CWSM',
            beta=1.0, minimum=1.0, mean='batch')``, with a minimum not above
            ``temperature``; CWSM is defined by the softmax only. Defaults to
            None.
        activation (str): 'softmax' or 'sigmoid'. Defaults to 'softmax'.
        groups (int): distributions of a pixel; more than one go with the
            softmax and without ``adjust``. Defaults to 1.
        standardise (bool): whether mean and scale of the logits of a pixel
            are taken away first; not with 'sigmoid'. Defaults to False.
        sync_ranks (bool): whether the mean is over the pixels of all ranks,
            each of which makes this call then. Defaults to False.

    Shape:
        - student, teacher: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over the valid pixels of the batch (a sum
        over the classes).

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Distilling the Knowledge in a Neural Network, NIPS 2014 workshop,
        arXiv:1503.02531 (no official code). In segmentation: Structured
        Knowledge Distillation for Semantic Segmentation, CVPR 2019,
        arXiv:1903.04197, irfanICMLL/structure_knowledge_distillation
        (ce208e1). The options: Preparing Lessons: Improve Knowledge
        Distillation with Better Supervision, Neurocomputing 2021,
        arXiv:1911.07471 (no official code found); Logit Standardization in
        Knowledge Distillation, CVPR 2024, arXiv:2403.01427,
        sunshangquan/logit-standardization-KD (f6e5aa5).

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 2)
        >>> teacher = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
        >>> teacher = teacher.expand(1, 2, 1, 2)
        >>> label = torch.tensor([[[0, 255]]])
        >>> round(kd_loss(student, teacher, label=label).item(), 4)
        0.1308
        >>> loss = kd_loss(student, teacher, label=torch.ones(1, 1, 2).long(),
        ...                adjust=dict(type='LabelSmoothing', correct=1.0))
        >>> round(loss.item(), 4)
        0.6931
    """
    check_maps(student, teacher)
    check_choice('activation', activation, ACTIVATIONS)
    check_positive('temperature', temperature)
    check_integer_or_none('ignore_index', ignore_index)
    adjustment, dynamic = _build_options(
        adjust, dynamic_temperature, temperature)
    _check_groups(groups, student.shape[1], activation, adjustment)
    _check_standardise(standardise, activation)
    if activation == 'sigmoid' and isinstance(dynamic, CWSM):
        raise ValueError(
            'dynamic_temperature must be of type FLSW with '
            f"activation='sigmoid', but got {dynamic!r}")
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        valid = None
        if label is not None and ignore_index is not None:
            valid = resize_label(label, student) != ignore_index
        if weight is not None:
            normalise_weight(weight, student)
            seen = weight[:, 0] > 0
            valid = seen if valid is None else valid & seen
        if groups > 1:
            student, teacher = (
                x.unflatten(1, (groups, -1)).flatten(0, 1)
                for x in (student, teacher))
            valid, weight = (
                x if x is None else x.repeat_interleave(groups, 0)
                for x in (valid, weight))
        if standardise:
            student, teacher = _standardised(student), _standardised(teacher)
        if dynamic is not None:
            temperature = dynamic(student, teacher, temperature, valid)
        student, teacher = student / temperature, teacher / temperature
        if label is None:
            adjustment = None
        if activation == 'sigmoid':
            divergence = _binary_divergence(
                student, teacher, label, adjustment)
        else:
            student = F.log_softmax(student, dim=1)
            teacher = F.log_softmax(teacher, dim=1)
            if adjustment is not None:
                teacher = adjustment(teacher, label)
            divergence = teacher.exp() * (teacher - student)
        loss = temperature**2 * divergence.sum(dim=1, keepdim=True)
        share: Any = None if valid is None else valid[:, None]
        return mean_over(
            loss, share if weight is None else share * weight, sync_ranks)


def _standardised(logits):
    """Without the mean, and through the deviation, of each pixel."""
    logits = logits - logits.mean(1, keepdim=True)
    square = logits.square().sum(1, keepdim=True) / max(logits.shape[1] - 1, 1)
    # the root has no slope at 0
    deviation = square.where(square > 1e-12, 1).sqrt()
    return logits / (deviation + 1e-7)


def _check_standardise(standardise, activation):
    check_bool('standardise', standardise)
    if standardise and activation == 'sigmoid':
        raise ValueError("standardise must be False with activation='sigmoid'"
                         ', which asks for each class on its own')


def _build_options(adjust, dynamic_temperature, temperature):
    adjust = build_option('adjust', adjust, ADJUSTMENTS)
    dynamic = build_option(
        'dynamic_temperature', dynamic_temperature, DYNAMIC_TEMPERATURES)
    if dynamic is not None:
        dynamic.check_temperature(temperature)
    return adjust, dynamic


NO_CLASS = -1  # as a label


def check_ignore_index(value: int | str | None) -> None:
    """Check an ``ignore_index`` of a loss."""
    if value is not None and value != 'head' and not is_integer(value):
        raise ValueError("ignore_index must be 'head', None or an integer, "
                         f'but got {value!r}')


def check_softmax(loss: DistillationLoss, student: Tensor) -> None:
    """Raise ValueError where a softmax of ``loss`` is over one channel."""
    if loss.activation == 'sigmoid' or student.shape[1] > (loss.groups or 1):
        return
    raise ValueError(
        f'{type(loss).__name__} takes a softmax over one channel, which is '
        "always 1; use activation='sigmoid' for a yes-or-no score, ValueLoss "
        'for depth and other values, or a loss on features, such as '
        "source='features'")


def _check_groups(groups, channels, activation, adjust):
    check_integer('groups', groups, minimum=1)
    if channels % groups:
        raise ValueError(f'groups must divide the {channels} channels, but '
                         f'got {groups!r}')
    if groups > 1 and activation != 'softmax':
        raise ValueError(f'groups must be 1 with activation={activation!r}, '
                         f'but got {groups!r}')
    if groups > 1 and adjust is not None:
        raise ValueError('adjust must be None with several groups, which are '
                         f'no classes, but got {adjust!r}')


def _binary_divergence(student, teacher, label, adjust):
    """Of the answers to K yes-or-no questions, element by element."""
    yes, no = F.logsigmoid(teacher), F.logsigmoid(-teacher)
    if adjust is not None:
        yes = adjust(yes, label)
        # the logarithm of 1 - exp(yes)
        no = torch.where(yes == F.logsigmoid(teacher), no,
                         torch.log(-torch.expm1(yes).clamp(max=-1e-38)))
    return (yes.exp() * (yes - F.logsigmoid(student))
            + no.exp() * (no - F.logsigmoid(-student)))


class KDLoss(DistillationLoss):
    """Soft labels of the teacher at every pixel: :func:`kd_loss`.

    Args:
        temperature (float): divides both logits. Defaults to 1.0.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every pixel takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to 'head'.
        adjust, dynamic_temperature (dict, optional): see :func:`kd_loss`.
            Default to None.
        activation (str, optional): 'softmax' or 'sigmoid'. None: the one of
            the student's head, or 'softmax' without a run. Defaults to None.
        groups (int, optional): distributions of a pixel. None: as many as
            the student's head has, or 1 without a run. Defaults to None.
        standardise (bool): whether mean and scale of the logits of a pixel
            are taken away first; see :func:`kd_loss`. Defaults to False.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 19, 8, 16)
        >>> KDLoss(temperature=2.0)(logits, logits).item()
        0.0
    """
    channels = 'classes'
    takes_weight = True

    def __init__(self,
                 temperature: float = 1.0,
                 ignore_index: int | str | None = 'head',
                 adjust: Adjustment | None = None,
                 dynamic_temperature: DynamicTemperature | None = None,
                 activation: str | None = None,
                 groups: int | None = None,
                 standardise: bool = False):
        super().__init__()
        check_positive('temperature', temperature)
        check_integer_or_none('groups', groups, minimum=1)
        check_ignore_index(ignore_index)
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.adjust, self.dynamic_temperature = _build_options(
            adjust, dynamic_temperature, temperature)
        if activation is not None:
            check_choice('activation', activation, ACTIVATIONS)
        self.activation = activation
        _check_standardise(standardise, activation)
        self.groups = groups
        self.standardise = standardise
        self.needs_label = ignore_index is not None or adjust is not None

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a softmax over one channel, and two that are standardised."""
        check_softmax(self, student)
        if self.standardise and student.shape[1] == 2 * (self.groups or 1):
            raise ValueError(
                'KDLoss standardises the logits of two classes, which leaves '
                'their order alone; use standardise=False')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`kd_loss`; a void pixel has no class to adjust to."""
        if label is not None and self.void_label not in (
                None, self.ignored_label):
            label = label.masked_fill(label == self.void_label, NO_CLASS)
        return kd_loss(
            student, teacher, label=label, weight=weight,
            temperature=self.temperature, ignore_index=self.ignored_label,
            adjust=self.adjust, dynamic_temperature=self.dynamic_temperature,
            activation=self.activation or 'softmax', groups=self.groups or 1,
            standardise=self.standardise,
            sync_ranks=self.sync_ranks)
