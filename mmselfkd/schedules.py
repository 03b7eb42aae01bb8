"""Schedules of a loss weight, in iterations or epochs.

A schedule gives the factor that the weight is multiplied by at time ``t``,
the number of iterations (or, with ``by_epoch=True``, epochs) done so far.
``resolve(length)`` is called before the first of them with the length of the
run in the same unit. The ``begin`` and ``end`` of a ramp are such a time, or
a fraction between 0 and 1: that share of the run, whatever its length (an
end at least one iteration or epoch behind the begin).
"""
import math
from typing import Any

from .checks import (
    check_bool,
    check_integer,
    check_not_negative,
    check_positive,
)

__all__ = ['LinearRamp', 'CosineRamp', 'ExponentialRamp', 'Step', 'Stop']

# what a search tries beside the schedule of a preset; shares of the run
SHAPES = dict(
    rising=dict(type='LinearRamp', end=0.3),
    falling=dict(type='LinearRamp', start_factor=1.0, end_factor=0.0))


class _Ramp:
    """A factor that changes from ``begin`` to ``end`` and is then constant.

    ``end=None`` is the end of the run.
    """

    def __init__(self, begin, end, by_epoch):
        if not _is_share(begin):
            check_integer('begin', begin, minimum=0)
        if end is not None and not _is_share(end):
            check_integer('end', end, minimum=1)
        if _is_share(begin) is _is_share(end) and end is not None:
            _check_order(begin, end)
        check_bool('by_epoch', by_epoch)
        self.begin = begin
        self.end = end
        self.by_epoch = by_epoch

    def resolve(self, length: int) -> None:
        """Fit the ramp into a run of ``length`` iterations or epochs.

        Args:
            length (int): length of the run in the unit of the schedule.

        Raises:
            ValueError: if the ramp does not lie within the run.
        """
        if _is_share(self.begin):
            self.begin = min(round(self.begin * length), length - 1)
        if _is_share(self.end):
            self.end = max(round(self.end * length), self.begin + 1)
        _check_inside('begin', self.begin, length - 1, length)
        if self.end is None:
            self.end = length
        _check_inside('end', self.end, length, length)
        _check_order(self.begin, self.end)

    def _progress(self, done):
        """Share of the ramp that ``done`` iterations or epochs are."""
        if self.end is None or _is_share(self.begin) or _is_share(self.end):
            raise RuntimeError(
                f'begin {self.begin!r}, end {self.end!r}: call '
                'resolve(length) before factor(t)')
        share = (done - self.begin) / (self.end - self.begin)
        return min(max(share, 0.0), 1.0)


class _FactorRamp(_Ramp):
    """A ramp between two factors; subclasses say how in ``_shape``."""

    def __init__(self,
                 begin: int | float = 0,
                 end: int | float | None = None,
                 start_factor: float = 0.0,
                 end_factor: float = 1.0,
                 by_epoch: bool = False):
        super().__init__(begin, end, by_epoch)
        check_not_negative('start_factor', start_factor)
        check_not_negative('end_factor', end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor

    def factor(self, t: int) -> float:
        """Factor of the weight at time ``t``."""
        share = self._shape(self._progress(t))
        return (1 - share) * self.start_factor + share * self.end_factor

    @staticmethod
    def _shape(share: float) -> float:
        raise NotImplementedError


class LinearRamp(_FactorRamp):
    """A straight line between two factors, constant before and after.

    With u = (t - begin) / (end - begin), limited to [0, 1]:
    factor = start_factor + (end_factor - start_factor) * u.

    Args:
        begin (int | float): time of ``start_factor``. Defaults to 0.
        end (int | float, optional): time of ``end_factor``. None: the end
            of the run. Defaults to None.
        start_factor (float): first factor, 0 or more. Defaults to 0.0.
        end_factor (float): last factor, 0 or more. Defaults to 1.0.
        by_epoch (bool): count epochs instead of iterations. Defaults to
            False.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> ramp = LinearRamp(end=4)
        >>> [ramp.factor(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    @staticmethod
    def _shape(share):
        return share


class CosineRamp(_FactorRamp):
    """Half a cosine wave between two factors, constant before and after.

    With u = (t - begin) / (end - begin), limited to [0, 1]:
    factor = start_factor + (end_factor - start_factor) * (1 - cos(pi u)) / 2.

    Args:
        begin (int | float): time of ``start_factor``. Defaults to 0.
        end (int | float, optional): time of ``end_factor``. None: the end
            of the run. Defaults to None.
        start_factor (float): first factor, 0 or more. Defaults to 0.0.
        end_factor (float): last factor, 0 or more. Defaults to 1.0.
        by_epoch (bool): count epochs instead of iterations. Defaults to
            False.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> ramp = CosineRamp(end=4)
        >>> [round(ramp.factor(t), 4) for t in range(5)]
        [0.0, 0.1464, 0.5, 0.8536, 1.0]
    """

    @staticmethod
    def _shape(share):
        return 0.5 * (1 - math.cos(math.pi * share))


class ExponentialRamp(_Ramp):
    """The warm-up of FRSKD: 0 before ``begin``, then exponential up to 1.

    With u = (t + 1 - begin) / (end - begin), limited to [0, 1]:
    factor = exp(-rate * (1 - u) ** 2), which is 1 in the last iteration (or
    epoch) before ``end`` already.

    Args:
        begin (int | float): first time with a factor above 0. Defaults to 0.
        end (int | float, optional): end of the ramp. None: the end of the
            run. Defaults to None.
        rate (float): above 0; the higher, the lower the start. Defaults to
            5.0.
        by_epoch (bool): count epochs instead of iterations. Defaults to
            False.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Refine Myself by Teaching Myself: Feature Refinement via
        Self-Knowledge Distillation, CVPR 2021, arXiv:2103.08273,
        MingiJi/FRSKD (98b87e5).

    Example:
        >>> ramp = ExponentialRamp(begin=1, end=3)
        >>> [round(ramp.factor(t), 4) for t in range(4)]
        [0.0, 0.2865, 1.0, 1.0]
    """

    def __init__(self,
                 begin: int | float = 0,
                 end: int | float | None = None,
                 rate: float = 5.0,
                 by_epoch: bool = False):
        super().__init__(begin, end, by_epoch)
        check_positive('rate', rate)
        self.rate = rate

    def factor(self, t: int) -> float:
        """Factor of the weight at time ``t``."""
        rest = 1 - self._progress(t + 1)
        return 0.0 if t < self.begin else math.exp(-self.rate * rest**2)


class Step:
    """Multiply the weight by ``gamma`` at every milestone.

    Args:
        milestones (list[int]): increasing times, 1 or more.
        gamma (float): factor of each step, 0 or more. Defaults to 0.1.
        by_epoch (bool): count epochs instead of iterations. Defaults to
            False.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> step = Step([1, 3], gamma=0.5)
        >>> [step.factor(t) for t in range(4)]
        [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self,
                 milestones: list[int],
                 gamma: float = 0.1,
                 by_epoch: bool = False):
        if not isinstance(milestones, (list, tuple)) or not milestones:
            raise ValueError('milestones must be a list of one integer or '
                             f'more, but got {milestones!r}')
        for milestone in milestones:
            check_integer('milestones', milestone, minimum=1)
        if any(a >= b for a, b in zip(milestones, milestones[1:])):
            raise ValueError(
                f'milestones must increase, but got {milestones!r}')
        check_not_negative('gamma', gamma)
        check_bool('by_epoch', by_epoch)
        self.milestones = list(milestones)
        self.gamma = gamma
        self.by_epoch = by_epoch

    def resolve(self, length: int) -> None:
        """Check the milestones against a run of ``length``.

        Args:
            length (int): length of the run in the unit of the schedule.

        Raises:
            ValueError: if a milestone lies beyond the run.
        """
        _check_inside('milestones', self.milestones[-1], length - 1, length)

    def factor(self, t: int) -> float:
        """Factor of the weight at time ``t``."""
        passed = sum(t >= milestone for milestone in self.milestones)
        return float(self.gamma**passed)


class Stop:
    """Keep the weight before ``end``, set it to 0 from there on.

    Args:
        end (int): first time without the loss, 1 or more.
        by_epoch (bool): count epochs instead of iterations. Defaults to
            False.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> stop = Stop(2)
        >>> [stop.factor(t) for t in range(4)]
        [1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, end: int, by_epoch: bool = False):
        check_integer('end', end, minimum=1)
        check_bool('by_epoch', by_epoch)
        self.end = end
        self.by_epoch = by_epoch

    def resolve(self, length: int) -> None:
        """Check the end against a run of ``length``.

        Args:
            length (int): length of the run in the unit of the schedule.

        Raises:
            ValueError: if the end lies beyond the run.
        """
        _check_inside('end', self.end, length, length)

    def factor(self, t: int) -> float:
        """Factor of the weight at time ``t``."""
        return 1.0 if t < self.end else 0.0


def factor_at(schedule: Any, iteration: int, epoch: int) -> float:
    """The factor of a schedule (None: 1) in this iteration."""
    if schedule is None:
        return 1.0
    return schedule.factor(epoch if schedule.by_epoch else iteration)


def _is_share(value):
    return isinstance(value, float) and 0 < value < 1


def _check_order(begin, end):
    if end <= begin:
        raise ValueError(
            f'end must be above begin, but got begin {begin!r}, end {end!r}')


def _check_inside(name, value, last, length):
    if value > last:
        raise ValueError(f'{name} must be {last} or less in a run of '
                         f'{length}, but got {value!r}')
