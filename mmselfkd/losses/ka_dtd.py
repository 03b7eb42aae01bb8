r"""Knowledge adjustment (KA) and dynamic temperature distillation (DTD).

Two options of :func:`~mmselfkd.losses.kd_loss`. KA corrects the soft labels
where the teacher's first choice is not the label: :class:`ProbabilityShift`
or :class:`LabelSmoothing`, called with scores (N, K, H, W) and integer labels
(N, H0, W0) or (N, 1, H0, W0), which are resized by nearest neighbour. A pixel
is left alone where its label has the highest score (ties included) or is no
class, that is outside 0 ... K - 1.

DTD gives every pixel a temperature of its own, the same for student and
teacher and without a gradient: :class:`FLSW` or :class:`CWSM`, called with
the logits (N, K, H, W) of both, returns temperatures (N, 1, H, W):

.. math::
    \tau_p = \max(\tau_{min}, T + \beta (\bar w - w_p))

:math:`w_p` says how hard pixel :math:`p` is, :math:`\bar w` is its mean over
the valid pixels, :math:`T` the temperature of the loss and
:math:`\tau_{min}` the ``minimum``. A hard pixel gets a lower temperature and
so a sharper target. Where T is the minimum only the easy pixels move.

Differs from the paper: it has one row and one temperature for each image;
here every pixel is a sample. Its T, :math:`\beta`, :math:`\gamma` and
smoothed label could not be read.

Differs from the official code: none was found. KD_Lib, from which the
smoothed label of 0.9 comes, swaps alike, but calls the divergence with its
arguments reversed and with probabilities where log-probabilities belong, and
takes the cross entropy of the logits divided by the temperature. TextBrewer,
from which the weights :math:`w_p` come, has no lower bound, so a temperature
may become zero or negative, and does not multiply the loss by its square.

Reference:
    Preparing Lessons: Improve Knowledge Distillation with Better Supervision,
    Neurocomputing 2021, arXiv:1911.07471 (no official code found;
    SforAiDl/KD_Lib, a94d236, and airaria/TextBrewer, 2c105fa, were read).
"""
import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_not_negative, check_positive
from ..errors import nearest
from ._maps import autocast_off, check_maps, full_precision, resize_label

__all__ = ['CWSM', 'FLSW', 'LabelSmoothing', 'ProbabilityShift']


@dataclass(frozen=True)
class ProbabilityShift:
    r"""Swap the scores of the label and of the class a wrong teacher chose.

    .. math::
        \tilde q_{p,y} = q_{p,c}, \quad \tilde q_{p,c} = q_{p,y}, \quad
        \tilde q_{p,k} = q_{p,k} \text{ otherwise}, \quad
        c = \mathrm{argmax}_k\, q_{p,k}

    :math:`q_p` (K) are the scores of pixel :math:`p` and :math:`y` is its
    label. The scores may be logits, probabilities or their logarithms. The
    sum and the entropy of a row stay as they were.

    Example:
        >>> q = torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1)
        >>> ProbabilityShift()(q, torch.tensor([[[2]]])).flatten()
        tensor([0.1250, 0.2500, 0.5000])
    """

    def __call__(self, scores: Tensor, label: Tensor) -> Tensor:
        """The scores after the swaps."""
        wrong, label, top = _wrong_rows(scores, label)
        label = torch.where(wrong, label, top)  # with itself: no change
        own, best = scores.gather(1, label), scores.gather(1, top)
        return scores.scatter(1, top, own).scatter(1, label, best)


@dataclass(frozen=True)
class LabelSmoothing:
    r"""Replace the rows of a wrong teacher by smoothed labels.

    .. math::
        \tilde q_{p,y} = a, \quad
        \tilde q_{p,k} = \frac{1 - a}{K - 1} \text{ for } k \neq y, \quad
        \text{where } \mathrm{argmax}_k\, q_{p,k} \neq y

    :math:`q_p` (K) are the class probabilities of pixel :math:`p`, of which
    the logarithms come in and go out, :math:`y` is its label and :math:`a` =
    ``correct``. A probability of 0 comes out as the lowest finite logarithm,
    so that 0 times its logarithm is 0.

    Args:
        correct (float): probability of the label, above 0 and at most 1;
            below 1 / K it makes the label the least likely class. Defaults
            to 0.9.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> q = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
        >>> LabelSmoothing()(q.log(), torch.tensor([[[2]]])).exp().flatten()
        tensor([0.0500, 0.0500, 0.9000])
    """
    correct: float = 0.9

    def __post_init__(self) -> None:
        check_positive('correct', self.correct, most=1)

    def __call__(self, log_q: Tensor, label: Tensor) -> Tensor:
        """The log-probabilities with these rows replaced."""
        wrong, label, _ = _wrong_rows(log_q, label)
        others = (1 - self.correct) / max(log_q.shape[1] - 1, 1)
        lowest = torch.finfo(log_q.dtype).min
        row = torch.full_like(log_q, math.log(others) if others else lowest)
        row = row.scatter(1, label, math.log(self.correct))
        return torch.where(wrong, row, log_q)


def _wrong_rows(scores, label):
    """Where the label is beaten, the label as an index, the best class."""
    check_maps(scores, scores)
    label = resize_label(label, scores)[:, None]
    is_class = (label >= 0) & (label < scores.shape[1])
    label = label.where(is_class, 0)
    best, top = scores.max(dim=1, keepdim=True)
    return is_class & (scores.gather(1, label) < best), label, top


@dataclass(frozen=True, kw_only=True)
class _DynamicTemperature:
    """What FLSW and CWSM share: how weights become temperatures."""
    beta: float = 1.0
    minimum: float = 1.0
    mean: str = 'batch'

    def __post_init__(self) -> None:
        check_not_negative('beta', self.beta)
        check_positive('minimum', self.minimum)
        check_choice('mean', self.mean, ('batch', 'image'))

    def check_temperature(self, temperature: float) -> None:
        """Raise ValueError where the temperature is below the minimum."""
        check_positive('temperature', temperature)
        if temperature < self.minimum:
            raise ValueError(
                'temperature must not be below the minimum of the dynamic '
                f'temperature, but got temperature={temperature!r} and '
                f'minimum={self.minimum!r}')

    def __call__(self,
                 student: Tensor,
                 teacher: Tensor,
                 temperature: float = 1.0,
                 valid: Tensor | None = None) -> Tensor:
        """The temperatures of all pixels, from detached logits.

        Args:
            student (Tensor): logits of the student, (N, K, H, W).
            teacher (Tensor): logits of the teacher, (N, K, H, W).
            temperature (float): of a pixel of mean weight; not below
                ``minimum``. Defaults to 1.0.
            valid (Tensor, optional): bool (N, H, W), the pixels whose mean
                is taken; the others get a temperature too. None: all.
                Defaults to None.

        Returns:
            Tensor: (N, 1, H, W).

        Raises:
            TypeError: if the maps are not floating point.
            ValueError: if shapes do not agree or an argument is out of range.
        """
        check_maps(student, teacher)
        self.check_temperature(temperature)
        with autocast_off(student):
            student, teacher = full_precision(student.detach(), teacher)
            weight = self._weight(student, teacher)
            axes = (1, 2, 3) if self.mean == 'image' else (0, 1, 2, 3)
            if valid is None:
                centre = weight.mean(axes, keepdim=True)
            elif valid.shape != weight[:, 0].shape:
                raise ValueError(
                    f'valid must have shape {tuple(weight[:, 0].shape)}, '
                    f'but got {tuple(valid.shape)}')
            else:
                valid = valid[:, None]
                centre = (weight.masked_fill(~valid, 0).sum(axes, keepdim=True)
                          / valid.sum(axes, keepdim=True).clamp(min=1))
            spread = self.beta * (centre - weight)
            return (temperature + spread).clamp(min=self.minimum)

    def _weight(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How hard each position is, (N, 1, H, W)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FLSW(_DynamicTemperature):
    r"""Temperatures by focal loss style weights.

    .. math::
        w_p = \max(0, 1 - v_p \cdot t_p)^\gamma, \quad
        v_p = \frac{z^s_p}{\lVert z^s_p \rVert_2 + 10^{-4}}, \quad
        t_p = \frac{z^t_p}{\lVert z^t_p \rVert_2 + 10^{-4}}

    :math:`z_p` (K) are the logits of pixel :math:`p`. A pixel is hard where
    the student is far from the teacher; :math:`w_p` is in [0, 2^gamma].

    Args:
        beta (float): how far the temperatures spread; 0 or more. Defaults
            to 1.0.
        minimum (float): lower bound of the temperatures, above 0. Defaults
            to 1.0.
        mean (str): one mean for the 'batch' (of one device) or for each
            'image'. Defaults to 'batch'.
        gamma (float): exponent of the weights; 0 or more. Defaults to 1.0.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> student = torch.tensor([[5., 5.], [0., 0.]]).view(1, 2, 1, 2)
        >>> teacher = torch.tensor([[5., 0.], [0., 5.]]).view(1, 2, 1, 2)
        >>> FLSW()(student, teacher, temperature=2.0).flatten()
        tensor([2.5000, 1.5000])
    """
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative('gamma', self.gamma)

    def _weight(self, student, teacher):
        cosine = (_direction(student) * _direction(teacher)).sum(
            dim=1, keepdim=True)
        # rounding may leave a hair below 0: NaN at a fractional gamma
        return (1 - cosine).clamp(min=0)**self.gamma


@dataclass(frozen=True, kw_only=True)
class CWSM(_DynamicTemperature):
    r"""Temperatures by the confidence of the student.

    .. math::
        w_p = \frac{1}{\max_k \mathrm{softmax}_k(z^s_p) + 10^{-3}}

    :math:`z^s_p` (K) are the student's logits of pixel :math:`p`, at
    temperature 1. A pixel is hard where the student is unsure; :math:`w_p`
    is from about 1 to about K.

    Args:
        beta, minimum, mean: see :class:`FLSW`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> student = torch.tensor([[99., 0.], [0., 0.]]).view(1, 2, 1, 2)
        >>> CWSM()(student, student, temperature=2.0).flatten()
        tensor([2.4985, 1.5015])
    """

    def _weight(self, student, teacher):
        sure = F.softmax(student, dim=1).amax(dim=1, keepdim=True)
        return 1 / (sure + 1e-3)


def _direction(logits):
    """Logits of length one, or of length 0 where they are all 0."""
    norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
    return logits / (norm + 1e-4)


ADJUSTMENTS = (ProbabilityShift, LabelSmoothing)
DYNAMIC_TEMPERATURES = (FLSW, CWSM)


def build_option(name: str, cfg: Any, classes: tuple[type, ...]) -> Any:
    """Build an option of a loss from its config.

    Args:
        name (str): of the option, for the errors.
        cfg (dict, optional): ``type`` and the arguments of the class. None,
            and what is built already, come back as they are.
        classes (tuple[type]): dataclasses that ``type`` may name.

    Raises:
        ValueError: if ``cfg`` cannot be built.

    Example:
        >>> cfg = dict(type='LabelSmoothing', correct=0.8)
        >>> build_option('adjust', cfg, ADJUSTMENTS)
        LabelSmoothing(correct=0.8)
    """
    if cfg is None or isinstance(cfg, classes):
        return cfg
    kinds = {cls.__name__: cls for cls in classes}
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
