"""Better supervision by soft labels: which row, how soft (KA and DTD)."""
import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import nearest
from ._common import (
    autocast_off,
    check_choice,
    check_maps,
    check_not_negative,
    check_positive,
    full_precision,
    resize_label,
)

MEANS = ('batch', 'image')


def probability_shift(scores: Tensor, label: Tensor) -> Tensor:
    r"""Swap the scores of the label and of the class a wrong teacher chose.

    .. math::
        \tilde q_{p,y} = q_{p,c}, \quad \tilde q_{p,c} = q_{p,y}, \quad
        \tilde q_{p,k} = q_{p,k} \text{ otherwise}, \quad
        c = \mathrm{argmax}_k\, q_{p,k}

    :math:`q_p` (K) are the scores of pixel :math:`p`, :math:`y` is its label
    and :math:`c` the class of its highest score. They may be logits,
    probabilities or their logarithms: the swap is the same. Sum and entropy
    of a row stay what they were.

    A pixel whose label has the highest score (ties included) is left alone,
    and so is one whose label is no class, that is outside 0 ... K - 1.

    Differs from the paper: the paper has one row per image; that every pixel
    is such a row is ours.

    Differs from the official code: none was found. KD_Lib swaps alike, but
    then calls the divergence with its arguments reversed and with
    probabilities where log-probabilities belong, and takes the cross entropy
    of the logits divided by the temperature.

    Args:
        scores (Tensor): scores of the teacher.
        label (Tensor): integer class labels, of any size; resized to the
            scores by nearest neighbour.

    Shape:
        - scores: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).

    Returns:
        Tensor: the scores with the swaps made, (N, K, H, W).

    Raises:
        TypeError: if the scores are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree.

    Reference:
        Preparing Lessons: Improve Knowledge Distillation with Better
        Supervision, Neurocomputing 2021, arXiv:1911.07471 (no official code
        found; SforAiDl/KD_Lib, a94d236, was read).

    Example:
        >>> import torch
        >>> q = torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1)
        >>> probability_shift(q, torch.tensor([[[2]]])).flatten()
        tensor([0.1250, 0.2500, 0.5000])
    """
    wrong, label, top = _wrong_rows(scores, label)
    label = torch.where(wrong, label, top)  # a swap with itself does nothing
    own, best = scores.gather(1, label), scores.gather(1, top)
    return scores.scatter(1, top, own).scatter(1, label, best)


def label_smoothing(log_q: Tensor,
                    label: Tensor,
                    correct: float = 0.9) -> Tensor:
    r"""Replace the rows of a wrong teacher by smoothed labels.

    .. math::
        \tilde q_{p,y} = a, \quad
        \tilde q_{p,k} = \frac{1 - a}{K - 1} \text{ for } k \neq y, \quad
        \text{where } \mathrm{argmax}_k\, q_{p,k} \neq y

    :math:`q_p` (K) are the class probabilities of pixel :math:`p`, of which
    the logarithms come in and go out, :math:`y` is its label and :math:`a` =
    ``correct``.

    A pixel whose label has the highest probability (ties included) is left
    alone, and so is one whose label is no class, that is outside
    0 ... K - 1. A probability of 0 comes out as the lowest finite number,
    so that 0 times its logarithm is 0.

    Differs from the paper: the paper has one row per image; that every pixel
    is such a row is ours. The value of ``correct`` is not stated in what was
    at hand.

    Differs from the official code: none was found. KD_Lib, from which the
    0.9 comes, calls the divergence with its arguments reversed and with
    probabilities where log-probabilities belong, and takes the cross entropy
    of the logits divided by the temperature.

    Args:
        log_q (Tensor): log-probabilities of the teacher.
        label (Tensor): integer class labels, of any size; resized to the
            rows by nearest neighbour.
        correct (float): probability of the label, above 0 and at most 1;
            below 1 / K it makes the label the least likely class. Defaults
            to 0.9.

    Shape:
        - log_q: (N, K, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).

    Returns:
        Tensor: the log-probabilities with the rows replaced, (N, K, H, W).

    Raises:
        TypeError: if the rows are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Preparing Lessons: Improve Knowledge Distillation with Better
        Supervision, Neurocomputing 2021, arXiv:1911.07471 (no official code
        found; SforAiDl/KD_Lib, a94d236, was read).

    Example:
        >>> import torch
        >>> q = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
        >>> label_smoothing(q.log(), torch.tensor([[[2]]])).exp().flatten()
        tensor([0.0500, 0.0500, 0.9000])
    """
    _check_correct(correct)
    wrong, label, _ = _wrong_rows(log_q, label)
    others = (1 - correct) / max(log_q.shape[1] - 1, 1)
    lowest = torch.finfo(log_q.dtype).min
    row = torch.full_like(log_q, math.log(others) if others else lowest)
    row = row.scatter(1, label, math.log(correct))
    return torch.where(wrong, row, log_q)


def _wrong_rows(scores, label):
    """Where the label is beaten, the label as an index, the best class."""
    check_maps(scores, scores)
    label = resize_label(label, scores)[:, None]
    is_class = (label >= 0) & (label < scores.shape[1])
    label = label.where(is_class, 0)
    best, top = scores.max(dim=1, keepdim=True)
    return is_class & (scores.gather(1, label) < best), label, top


def _check_correct(correct):
    check_positive('correct', correct)
    if correct > 1:
        raise ValueError(
            f'correct must be above 0 and at most 1, but got {correct!r}')


def flsw_temperature(student: Tensor,
                     teacher: Tensor,
                     temperature: float = 1.0,
                     valid: Tensor | None = None,
                     beta: float = 1.0,
                     gamma: float = 1.0,
                     minimum: float = 1.0,
                     mean: str = 'batch') -> Tensor:
    r"""Temperature of every pixel by focal loss style weights.

    .. math::
        \tau_p = \max(\tau_{min}, T + \beta (\bar w - w_p)), \quad
        w_p = \max(0, 1 - v_p \cdot t_p)^\gamma, \quad
        v_p = \frac{z^s_p}{\lVert z^s_p \rVert_2 + 10^{-4}}, \quad
        t_p = \frac{z^t_p}{\lVert z^t_p \rVert_2 + 10^{-4}}

    :math:`z_p` (K) are the logits of pixel :math:`p`, :math:`w_p` in
    [0, 2^gamma] is how hard it is, :math:`\bar w` the mean over the valid
    pixels, :math:`T` the ``temperature`` and :math:`\tau_{min}` the
    ``minimum``. The further the student is from the teacher, the lower the
    temperature and the sharper the target.

    With the default ``minimum`` and T = 1 only the easy pixels move: choose
    T above the minimum to let the hard ones have less.

    Differs from the paper: the paper has one temperature per image; that
    every valid pixel is such a sample is ours. The values of T, beta and
    gamma are not stated in what was at hand.

    Differs from the official code: none was found. TextBrewer, from which
    the weights come, has no lower bound, so that a temperature may become
    zero or negative, and does not multiply the loss by its square.

    Args:
        student (Tensor): logits of the student; detached here.
        teacher (Tensor): logits of the teacher; detached here.
        temperature (float): temperature of a pixel of mean weight; not below
            ``minimum``. Defaults to 1.0.
        valid (Tensor, optional): bool, the pixels that make the mean (the
            others get a temperature too). None: all. Defaults to None.
        beta (float): how far the temperatures spread; 0 or more. Defaults
            to 1.0.
        gamma (float): exponent of the weights; 0 or more. Defaults to 1.0.
        minimum (float): lower bound of the temperatures, above 0. Defaults
            to 1.0.
        mean (str): 'batch' (on one device) or 'image': the pixels that one
            mean is taken over. Defaults to 'batch'.

    Shape:
        - student, teacher: (N, K, H, W).
        - valid: (N, H, W).

    Returns:
        Tensor: the temperatures, without a gradient, (N, 1, H, W).

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Preparing Lessons: Improve Knowledge Distillation with Better
        Supervision, Neurocomputing 2021, arXiv:1911.07471 (no official code
        found; airaria/TextBrewer, 2c105fa, was read).

    Example:
        >>> import torch
        >>> student = torch.tensor([[5., 5.], [0., 0.]]).view(1, 2, 1, 2)
        >>> teacher = torch.tensor([[5., 0.], [0., 5.]]).view(1, 2, 1, 2)
        >>> flsw_temperature(student, teacher, temperature=2.0).flatten()
        tensor([2.5000, 1.5000])
    """
    check_maps(student, teacher)
    _check_spread(beta, minimum, mean, temperature)
    check_not_negative('gamma', gamma)
    with autocast_off(student):
        student, teacher = full_precision(student.detach(), teacher)
        cosine = (_direction(student) * _direction(teacher)).sum(
            dim=1, keepdim=True)
        # rounding may leave a hair below 0: NaN at a fractional gamma
        weight = (1 - cosine).clamp(min=0)**gamma
        return _spread(weight, temperature, valid, beta, minimum, mean)


def cwsm_temperature(student: Tensor,
                     temperature: float = 1.0,
                     valid: Tensor | None = None,
                     beta: float = 1.0,
                     minimum: float = 1.0,
                     mean: str = 'batch') -> Tensor:
    r"""Temperature of every pixel by the confidence of the student.

    .. math::
        \tau_p = \max(\tau_{min}, T + \beta (\bar w - w_p)), \quad
        w_p = \frac{1}{\max_k \mathrm{softmax}_k(z^s_p) + 10^{-3}}

    :math:`z^s_p` (K) are the student's logits of pixel :math:`p`,
    :math:`w_p`, about 1 to about K, is how unsure it is, :math:`\bar w` the
    mean over the valid pixels, :math:`T` the ``temperature`` (which does not
    soften the softmax in :math:`w_p`) and :math:`\tau_{min}` the
    ``minimum``. The less sure the student, the lower the temperature and the
    sharper the target.

    With the default ``minimum`` and T = 1 only the easy pixels move: choose
    T above the minimum to let the hard ones have less.

    Differs from the paper: the paper has one temperature per image; that
    every valid pixel is such a sample is ours. The values of T and beta are
    not stated in what was at hand.

    Differs from the official code: none was found. TextBrewer, from which
    the weights come, has no lower bound, so that a temperature may become
    zero or negative, and does not multiply the loss by its square.

    Args:
        student (Tensor): logits of the student; detached here.
        temperature (float): temperature of a pixel of mean weight; not below
            ``minimum``. Defaults to 1.0.
        valid (Tensor, optional): bool, the pixels that make the mean (the
            others get a temperature too). None: all. Defaults to None.
        beta (float): how far the temperatures spread; 0 or more. Defaults
            to 1.0.
        minimum (float): lower bound of the temperatures, above 0. Defaults
            to 1.0.
        mean (str): 'batch' (on one device) or 'image': the pixels that one
            mean is taken over. Defaults to 'batch'.

    Shape:
        - student: (N, K, H, W).
        - valid: (N, H, W).

    Returns:
        Tensor: the temperatures, without a gradient, (N, 1, H, W).

    Raises:
        TypeError: if the map is not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Preparing Lessons: Improve Knowledge Distillation with Better
        Supervision, Neurocomputing 2021, arXiv:1911.07471 (no official code
        found; airaria/TextBrewer, 2c105fa, was read).

    Example:
        >>> import torch
        >>> student = torch.tensor([[99., 0.], [0., 0.]]).view(1, 2, 1, 2)
        >>> cwsm_temperature(student, temperature=2.0).flatten()
        tensor([2.4985, 1.5015])
    """
    check_maps(student, student)
    _check_spread(beta, minimum, mean, temperature)
    with autocast_off(student):
        _, student = full_precision(student, student)
        sure = F.softmax(student, dim=1).amax(dim=1, keepdim=True)
        return _spread(1 / (sure + 1e-3), temperature, valid, beta, minimum,
                       mean)


def _direction(logits):
    """Logits of length one, or of length 0 where they are all 0."""
    norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
    return logits / (norm + 1e-4)


def _spread(weight, temperature, valid, beta, minimum, mean):
    """Temperatures (N, 1, H, W) from the weights (N, 1, H, W)."""
    axes = (1, 2, 3) if mean == 'image' else (0, 1, 2, 3)
    if valid is None:
        centre = weight.mean(axes, keepdim=True)
    else:
        if valid.shape != weight[:, 0].shape:
            raise ValueError(
                f'valid must have shape {tuple(weight[:, 0].shape)}, '
                f'but got {tuple(valid.shape)}')
        valid = valid[:, None]
        centre = (weight.masked_fill(~valid, 0).sum(axes, keepdim=True)
                  / valid.sum(axes, keepdim=True).clamp(min=1))
    return (temperature + beta * (centre - weight)).clamp(min=minimum)


def _check_spread(beta, minimum, mean, temperature=None):
    check_not_negative('beta', beta)
    check_positive('minimum', minimum)
    check_choice('mean', mean, MEANS)
    if temperature is None:
        return
    check_positive('temperature', temperature)
    if temperature < minimum:
        raise ValueError(
            'temperature must not be below the minimum of the dynamic '
            f'temperature, but got temperature={temperature!r} and '
            f'minimum={minimum!r}')


@dataclass(frozen=True)
class ProbabilityShift:
    """Swap of the label and a wrong first choice: :func:`probability_shift`.

    Example:
        >>> import torch
        >>> q = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1)
        >>> ProbabilityShift()(q, torch.tensor([[[1]]])).flatten()
        tensor([0.2500, 0.7500])
    """

    def __call__(self, log_q: Tensor, label: Tensor) -> Tensor:
        """See :func:`probability_shift`."""
        return probability_shift(log_q, label)


@dataclass(frozen=True)
class LabelSmoothing:
    """Smoothed labels in place of wrong rows: :func:`label_smoothing`.

    Args:
        correct (float): probability of the label, above 0 and at most 1.
            Defaults to 0.9.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> log_q = torch.tensor([0.5, -0.5]).view(1, 2, 1, 1)
        >>> LabelSmoothing(0.75)(log_q, torch.tensor([[[1]]])).exp().flatten()
        tensor([0.2500, 0.7500])
    """
    correct: float = 0.9

    def __post_init__(self):
        _check_correct(self.correct)

    def __call__(self, log_q: Tensor, label: Tensor) -> Tensor:
        """See :func:`label_smoothing`."""
        return label_smoothing(log_q, label, self.correct)


@dataclass(frozen=True)
class FLSW:
    """Temperatures by focal loss style weights: :func:`flsw_temperature`.

    Args:
        beta (float): how far the temperatures spread; 0 or more. Defaults
            to 1.0.
        gamma (float): exponent of the weights; 0 or more. Defaults to 1.0.
        minimum (float): lower bound of the temperatures, above 0. Defaults
            to 1.0.
        mean (str): 'batch' or 'image'. Defaults to 'batch'.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.ones(1, 2, 1, 3)
        >>> FLSW(beta=5.0)(logits, logits, temperature=2.0).flatten()
        tensor([2., 2., 2.])
    """
    beta: float = 1.0
    gamma: float = 1.0
    minimum: float = 1.0
    mean: str = 'batch'

    def __post_init__(self):
        _check_spread(self.beta, self.minimum, self.mean)
        check_not_negative('gamma', self.gamma)

    def __call__(self,
                 student: Tensor,
                 teacher: Tensor,
                 temperature: float = 1.0,
                 valid: Tensor | None = None) -> Tensor:
        """See :func:`flsw_temperature`."""
        return flsw_temperature(student, teacher, temperature, valid,
                                self.beta, self.gamma, self.minimum,
                                self.mean)


@dataclass(frozen=True)
class CWSM:
    """Temperatures by the student's confidence: :func:`cwsm_temperature`.

    Args:
        beta (float): how far the temperatures spread; 0 or more. Defaults
            to 1.0.
        minimum (float): lower bound of the temperatures, above 0. Defaults
            to 1.0.
        mean (str): 'batch' or 'image'. Defaults to 'batch'.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> logits = torch.ones(1, 2, 1, 3)
        >>> CWSM(beta=5.0)(logits, logits, temperature=2.0).flatten()
        tensor([2., 2., 2.])
    """
    beta: float = 1.0
    minimum: float = 1.0
    mean: str = 'batch'

    def __post_init__(self):
        _check_spread(self.beta, self.minimum, self.mean)

    def __call__(self,
                 student: Tensor,
                 teacher: Tensor,
                 temperature: float = 1.0,
                 valid: Tensor | None = None) -> Tensor:
        """See :func:`cwsm_temperature`; the teacher is not used."""
        return cwsm_temperature(student, temperature, valid, self.beta,
                                self.minimum, self.mean)


ADJUSTMENTS = {kind.__name__: kind
               for kind in (ProbabilityShift, LabelSmoothing)}
TEMPERATURES = {kind.__name__: kind for kind in (FLSW, CWSM)}


def build_adjust(
    cfg: dict | ProbabilityShift | LabelSmoothing | None
) -> ProbabilityShift | LabelSmoothing | None:
    """The adjustment that ``cfg`` describes.

    Args:
        cfg (dict, optional): ``type`` ('ProbabilityShift' or
            'LabelSmoothing') and its arguments. None, and what was built
            already, come back as they are.

    Returns:
        ProbabilityShift | LabelSmoothing | None: called with log-probabilities
        of the teacher and labels.

    Raises:
        ValueError: if ``cfg`` cannot be built.

    Example:
        >>> build_adjust(dict(type='LabelSmoothing', correct=0.8))
        LabelSmoothing(correct=0.8)
    """
    return _build('adjust', cfg, ADJUSTMENTS)


def build_dynamic_temperature(
        cfg: dict | FLSW | CWSM | None,
        temperature: float = 1.0) -> FLSW | CWSM | None:
    """The dynamic temperature that ``cfg`` describes.

    Args:
        cfg (dict, optional): ``type`` ('FLSW' or 'CWSM') and its arguments.
            None, and what was built already, come back as they are.
        temperature (float): what the temperatures spread about. Defaults
            to 1.0.

    Returns:
        FLSW | CWSM | None: called with the logits of student and teacher,
        the temperature and the mask of valid pixels.

    Raises:
        ValueError: if ``cfg`` cannot be built, or its ``minimum`` is above
            the temperature.

    Example:
        >>> build_dynamic_temperature(dict(type='CWSM', beta=2.0), 4.0)
        CWSM(beta=2.0, minimum=1.0, mean='batch')
    """
    built = _build('dynamic_temperature', cfg, TEMPERATURES)
    if built is not None:
        _check_spread(built.beta, built.minimum, built.mean, temperature)
    return built


def _build(name, cfg, kinds):
    if cfg is None or isinstance(cfg, tuple(kinds.values())):
        return cfg
    if not isinstance(cfg, dict):
        raise ValueError(f"{name} must be None or a dict with the key 'type',"
                         f' but got {cfg!r}' + nearest(cfg, kinds))
    if 'type' not in cfg:
        raise ValueError(f"{name} must have the key 'type', but got "
                         f'{dict(cfg)!r}' + nearest('', kinds))
    kind = cfg['type']
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f'{name} must have a known type, but got {kind!r}' +
                         nearest(kind, kinds))
    options = {key: value for key, value in cfg.items()
               if key not in ('type', '_scope_')}
    allowed = [field.name for field in fields(kinds[kind])]
    for key in options:
        if key not in allowed:
            raise ValueError(f'{name} must have the keys of {kind} only, but '
                             f'got {key!r}' + nearest(key, allowed))
    try:
        return kinds[kind](**options)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from None
