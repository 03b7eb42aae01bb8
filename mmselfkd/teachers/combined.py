"""Several teachers that teach as one."""
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_choice
from ..errors import ConfigError, config_errors
from ..hosts import Place, Reading
from ..registry import TEACHERS
from ..sources import Levels
from .building import build_teacher
from .teacher import BatchContext, Teacher, TeacherOutput


@TEACHERS.register_module()
class CombinedTeacher(Teacher):
    r"""Several teachers as one, which every loss can use.

    Each teacher :math:`m` of :math:`M` runs on the batch. What they give at a
    source is combined. Class scores by their probabilities: :math:`q^m_{p,k}`
    is that of class :math:`k` at position :math:`p`, a softmax over the
    classes of one anchor or a sigmoid, as the heads have it.

    ``by='mean'`` takes the mean:

    .. math::
        q_{p,k} = \frac{1}{M} \sum_m q^m_{p,k}

    ``by='confidence'`` takes, at every position and anchor, the teacher with
    the highest probability of any class, the first of equal ones:

    .. math::
        q_{p,k} = q^{m(p)}_{p,k}, \quad
        m(p) = \mathrm{argmax}_m \max_k q^m_{p,k}

    ``by='class'`` takes, at every position and for each class, the highest
    probability, so a teacher may be the one for some classes only:

    .. math::
        q_{p,k} = \frac{\max_m q^m_{p,k}}{\sum_j \max_m q^m_{p,j}}
        \;\text{(softmax)}, \quad
        q_{p,k} = \max_m q^m_{p,k} \;\text{(sigmoid)}

    Given back are scores of which the same softmax or sigmoid makes these
    probabilities: :math:`\log q_{p,k}`, or the logit :math:`\log q_{p,k} -
    \log(1 - q_{p,k})`. A loss with a temperature divides these. The bins of
    box sides are combined like classes, by mean or confidence.

    Features and other values, such as depth, have a mean only, for which
    teachers must give equally many levels and channels. Maps of another size
    are brought to that of the first teacher, bilinearly. One teacher alone is
    looked at by ``teacher='a.features'``, where ``a`` is its name.

    All teachers must be there to teach: until the last of them is ready the
    losses that look at this one are 0. Teachers on side streams are waited
    for.

    Args:
        teachers (dict[str, dict]): Config by name, two or more. Those that
            are trained along (SelfTeacher, MixTeacher) cannot take part.
        by (str): ``'mean'``, ``'confidence'`` or ``'class'``. Defaults to
            ``'mean'``.
        key (str): Where this stands in the user's config, for the errors.

    Shape:
        A level is (N, C, H, W) in every teacher, but for H and W, and here.

    Raises:
        ConfigError: Fewer than two teachers, another ``by``, or teachers
            whose classes, activations, anchors, levels or channels differ.
    """

    def __init__(self,
                 teachers: dict[str, dict],
                 by: str = 'mean',
                 key: str = 'teacher') -> None:
        super().__init__(key)
        with config_errors():
            check_choice(f'{key}.by', by, tuple(COMBINATIONS))
        if not isinstance(teachers, dict) or len(teachers) < 2 or not all(
                isinstance(name, str) and name.isidentifier()
                for name in teachers):
            raise ConfigError(f'{key}.teachers = {teachers!r}: a dict of two '
                              'or more teachers by name is needed')
        self.by = by
        self.members: dict[str, Teacher] = {
            name: build_teacher(cfg, f'{key}.teachers.{name}')
            for name, cfg in teachers.items()}
        self._sources: dict[str, str] = {}
        self._places: dict[str, Place | None] = {}

    # -- what a run calls, handed on to each teacher --------------------------

    @property
    def is_ready(self) -> bool:  # type: ignore[override]
        """Whether all teachers teach yet."""
        return all(t.is_ready for t in self.members.values())

    @property
    def is_pretrained(self) -> bool:
        """Whether all teachers have their weights before the run begins."""
        return all(getattr(t, 'is_pretrained', False)
                   for t in self.members.values())

    def request(self, source: str, key: str, student: nn.Module) -> None:
        self._sources.setdefault(source, key)
        for name, path in self._asked(source).items():
            member = self.members[name]
            member.request(path, key, student)
            self.student_sources += [
                s for s in member.student_sources
                if s not in self.student_sources]

    def check_length(self, iterations: int | None,
                     epochs: int | None) -> None:
        for member in self.members.values():
            member.check_length(iterations, epochs)

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        used = {name for s in self._sources for name in self._asked(s)}
        for name, member in self.members.items():
            if name not in used:
                raise ConfigError(
                    f'{member.key}: no loss looks at this teacher; leave it '
                    'out')
            member.fit(context, resources)
            if member.module is not None:
                raise ConfigError(
                    f'{member.key}.type: a {type(member).__name__} is trained '
                    'along and cannot be combined; name it beside the others, '
                    'teacher=dict(a=..., b=...)')
        names = {n: t.classes for n, t in self.members.items() if t.classes}
        _must_agree(self.key, 'were trained on other classes', {
            name: str(classes) for name, classes in names.items()})
        self.classes = next(iter(names.values()), None)

    def rehearse(self, context: BatchContext) -> TeacherOutput:
        """A first output of every teacher, which must fit together.

        Raises:
            ConfigError: They do not.
        """
        outputs = {name: member.rehearse(context)
                   for name, member in self.members.items()}
        for output in outputs.values():
            output.join()
        for source in self._sources:
            found = {name: outputs[name].levels[path]
                     for name, path in self._asked(source).items()}
            places = {name: self.members[name].place(path)
                      for name, path in self._asked(source).items()}
            self._places[source] = next(iter(places.values()))
            if len(found) > 1:
                self._check(source, found, places)
        return self._joined(outputs, self._sources)

    def place(self, source: str) -> Place | None:
        return self._places[source]

    def start(self, student: nn.Module) -> None:
        for member in self.members.values():
            member.start(student)

    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        asked = list(self._sources if sources is None else sources)
        wanted: dict[str, set[str]] = {}
        for source in asked:
            for name, path in self._asked(source).items():
                wanted.setdefault(name, set()).add(path)
        outputs = {name: self.members[name].teach(context, paths)
                   for name, paths in wanted.items()}
        for output in outputs.values():
            output.join()
        return self._joined(outputs, asked)

    def follow(self, student: nn.Module, iterations: int,
               epoch_length: int) -> None:
        for member in self.members.values():
            member.follow(student, iterations, epoch_length)

    def state_dict(self) -> dict[str, Any]:
        states = {name: member.state_dict()
                  for name, member in self.members.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.keys() != self.state_dict().keys():
            raise ValueError(f'of other teachers: {list(state)}')
        for name, its in state.items():
            self.members[name].load_state_dict(its)

    def describe(self) -> str:
        return (f'{len(self.members)} teachers by {self.by}: ' + '; '.join(
            f'{name}: {member.describe()}'
            for name, member in self.members.items()))

    # -- one source of all teachers -------------------------------------------

    def _asked(self, source: str) -> dict[str, str]:
        """The teachers that ``source`` looks at, and what it is to each."""
        name, dot, path = source.partition('.')
        if dot and name in self.members:
            return {name: path}
        return dict.fromkeys(self.members, source)

    def _joined(self, outputs: dict[str, TeacherOutput],
                sources: Iterable[str]) -> TeacherOutput:
        levels = {}
        for source in sources:
            found = [outputs[name].levels[path]
                     for name, path in self._asked(source).items()]
            levels[source] = found[0] if len(found) == 1 else [
                self._combined(level, self._places[source])
                for level in zip(*found)]
        return TeacherOutput(levels)

    def _combined(self, level: Sequence[Tensor],
                  place: Place | None) -> Tensor:
        """One level of all teachers (N, C, H, W)."""
        first, *others = level
        same = [first, *(
            x if x.shape == first.shape else F.interpolate(
                x, first.shape[2:], mode='bilinear', align_corners=False)
            for x in others)]
        if place is None or not _is_scored(place.reading):
            return torch.stack(same).mean(0)
        reading: Any = place.reading
        return combine_scores(same, self.by, reading.activation,
                              reading.groups(first.shape[1]))

    def _check(self, source: str, found: dict[str, Levels],
               places: dict[str, Place | None]) -> None:
        """Refuse what cannot be combined."""
        where = f'{self._sources[source]} = {source!r}'
        readings = {name: None if place is None else place.reading
                    for name, place in places.items()}
        _must_agree(where, 'are read in other ways', {
            name: _says(reading, found[name][0].shape[1])
            for name, reading in readings.items()})
        _must_agree(where, 'give other levels or channels', {
            name: str([level.shape[1] for level in levels])
            for name, levels in found.items()})
        place = next(iter(places.values()))
        alone = f"look at one of them, teacher='{next(iter(found))}.{source}'"
        if place is None or not place.is_map:
            if place is not None and place.queries:
                raise ConfigError(
                    f'{where}: the queries of several detectors have no order '
                    f'that they share, so they cannot be combined; {alone}')
            _must_agree(where, 'give other shapes', {
                name: str([tuple(level.shape) for level in levels])
                for name, levels in found.items()})
        if place is not None and _is_scored(place.reading):
            assert place.reading is not None
            if self.by == 'class' and place.reading.kind != 'classes':
                raise ConfigError(
                    f"{self.key}.by = 'class': {source!r} gives box sides, "
                    f"which have no classes; say by='mean', or {alone}")
        elif self.by != 'mean':
            raise ConfigError(
                f'{self.key}.by = {self.by!r}: {source!r} gives no class '
                'scores that are known, and features have a mean only; say '
                f"by='mean', or {alone}")


def combine_scores(scores: Sequence[Tensor], by: str, activation: str,
                   groups: int = 1) -> Tensor:
    """Class scores of several teachers as those of one.

    Args:
        scores (Sequence[Tensor]): Of each teacher, (N, groups * K, H, W).
        by (str): See :class:`CombinedTeacher`.
        activation (str): ``'softmax'`` or ``'sigmoid'``.
        groups (int): Anchors at a position. Defaults to 1.

    Returns:
        Tensor: (N, groups * K, H, W), float32 or better: logarithms of the
        probabilities, or their logits.
    """
    stacked = torch.stack([
        x.to(torch.promote_types(x.dtype, torch.float32)) for x in scores])
    stacked = stacked.unflatten(2, (groups, -1))  # (M, N, groups, K, H, W)
    is_sigmoid = activation == 'sigmoid'
    return COMBINATIONS[by](stacked if is_sigmoid else stacked.log_softmax(3),
                            is_sigmoid).flatten(1, 2)


def _mean(scores: Tensor, is_sigmoid: bool) -> Tensor:
    if not is_sigmoid:
        return scores.logsumexp(0) - math.log(len(scores))
    return (F.logsigmoid(scores).logsumexp(0)
            - F.logsigmoid(-scores).logsumexp(0))


def _by_confidence(scores: Tensor, is_sigmoid: bool) -> Tensor:
    best = scores.amax(3, keepdim=True).argmax(0, keepdim=True)
    return scores.gather(0, best.expand(1, *scores.shape[1:])).squeeze(0)


def _by_class(scores: Tensor, is_sigmoid: bool) -> Tensor:
    best = scores.amax(0)
    return best if is_sigmoid else best.log_softmax(2)


# of log probabilities, or logits of a sigmoid, (M, N, groups, K, H, W)
COMBINATIONS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    'mean': _mean, 'confidence': _by_confidence, 'class': _by_class}


def _is_scored(reading: Reading | None) -> bool:
    """Whether probabilities can be made of what is read so."""
    return reading is not None and reading.activation is not None


def _says(reading: Reading | None, channels: int) -> str:
    if reading is None:
        return 'features'
    said = dataclasses.asdict(reading) | dict(size=reading.size or channels)
    return ', '.join(f'{name} {value}' for name, value in said.items()
                     if value is not None)


def _must_agree(where: str, what: str, said: dict[str, str]) -> None:
    """Raise an error that names two teachers that do not."""
    for name, value in said.items():
        first = next(iter(said))
        if value != said[first]:
            raise ConfigError(
                f'{where}: the teachers {first!r} and {name!r} {what}: '
                f'{said[first]} and {value}')
