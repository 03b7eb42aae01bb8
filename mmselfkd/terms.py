"""One entry of a hook's ``losses``: where to look, what to compare."""
import copy
import inspect
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from .adapters import build_adapters, match_queries, resize_like, split_anchors
from .areas import Areas
from .errors import ConfigError
from .heads import Scores
from .registry import MODELS, SCHEDULES, build_part
from .schedules import MOST, factor_at
from .sources import Levels, parse_source

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


class Term:
    """``loss_weight * schedule(t) * sum over levels of loss(s, t)``.

    Args:
        name (str): The key in ``losses``; logged as ``distill.<name>``.
        cfg (dict): ``source``, ``loss_weight``, ``schedule``, ``foreground``
            and the loss.
        key (str): Where ``cfg`` stands in the config, for the errors.
        teachers (Sequence[str]): Names of the teachers there are.

    Raises:
        ConfigError: Anything in ``cfg`` that cannot work.
    """

    def __init__(self, name: str, cfg: Any, key: str,
                 teachers: Sequence[str]) -> None:
        self.name, self.key = name, key
        if not isinstance(name, str) or 'loss' not in name:
            raise ConfigError(
                f'{key}: mmengine adds up the entries whose key contains '
                f"'loss'; rename it to {f'loss_{name}'!r}")
        if not name.isidentifier():
            raise ConfigError(f'{key}: a key is letters, digits and _')
        if not isinstance(cfg, dict):
            raise ConfigError(f'{key} = {cfg!r}: a dict is needed')
        cfg = dict(cfg)
        if 'source' not in cfg:
            raise ConfigError(f"{key}.source is missing: for example 'logits',"
                              " 'features' or 'backbone[3]'")
        source = cfg.pop('source')
        self.loss_weight = _checked_weight(
            cfg.pop('loss_weight', 1.0), f'{key}.loss_weight')
        schedule = cfg.pop('schedule', None)
        self.schedule = None if schedule is None else build_part(
            schedule, SCHEDULES, f'{key}.schedule')
        self.foreground = _checked_share(
            cfg.pop('foreground', None), f'{key}.foreground')
        self.loss: nn.Module = build_part(cfg, MODELS, key)
        self._takes_weight = 'weight' in inspect.signature(
            self.loss.forward).parameters
        if self.foreground is not None and not self._takes_weight:
            raise ConfigError(
                f'{key}.foreground = {self.foreground!r}: '
                f'{type(self.loss).__name__} takes no weight of positions')
        self.student_sources, self.teacher_sources = parse_source(
            source, f'{key}.source', teachers)
        self.adapters = nn.ModuleList()
        self.judges = nn.ModuleList()  # a copy of the loss for each level
        self.scores: Scores | None = None  # how class scores are read
        self.is_map = True  # maps of the image, not of RoIs or queries

    @property
    def teachers(self) -> list[str]:
        """The names of the teachers that it looks at."""
        return [owner for owner, _ in
                self.student_sources + self.teacher_sources if owner]

    def of_teachers(self, names: dict[str, str]) -> 'Term':
        """The same where the teachers have other names."""
        term = copy.copy(self)
        term.student_sources, term.teacher_sources = (
            [(names.get(owner, owner), source) for owner, source in sources]
            for sources in (self.student_sources, self.teacher_sources))
        return term

    @property
    def is_adversarial(self) -> bool:
        return hasattr(self.loss, 'discriminator_loss')

    def weight_at(self, iteration: int, epoch: int) -> float:
        """The weight in this iteration; at 0 the term costs nothing."""
        return self.loss_weight * factor_at(self.schedule, iteration, epoch)

    def fit(self, student: Levels, teacher: Levels, image: torch.Tensor,
            scores: Scores | None = None, is_map: bool = True,
            same_strides: bool = False) -> None:
        """Check one rehearsed pair of levels and build what it needs.

        Args:
            student (list[Tensor]): The student's levels (N, C, H, W).
            teacher (list[Tensor]): The teacher's levels.
            image (Tensor): The student's input (N, 3, H, W).
            scores (Scores, optional): How to read the student's class scores,
                where it looks at such.
            is_map (bool): Whether the levels are maps of the image.
            same_strides (bool): Whether several levels must come in the same
                sizes: a detector assigns objects to them by size.

        Raises:
            ConfigError: Levels, dimensions, sizes or classes that do not
                agree, or an option that the levels cannot have.
        """
        where = f'{self.key}.source'
        for level in [*student, *teacher]:
            if level.dim() != 4:
                raise ConfigError(f'{where}: maps (N, C, H, W) are needed, '
                                  f'got {_shapes([level])}')
        self.scores, self.is_map = scores, is_map
        pairs = self._pairs(student, teacher)
        kind = getattr(self.loss, 'channels', 'adapt')
        sizes = getattr(self.loss, 'sizes', 'equal')
        if sizes == 'equal' and not (scores and scores.queries):
            self._check_kinds(pairs)
        if same_strides and sizes == 'equal' and len(pairs) > 1:
            self._check_strides(pairs)
        if kind == 'adapt':
            self.adapters = build_adapters(pairs)
        elif kind == 'classes':
            self._check_classes(pairs)
        if not is_map:
            self._check_off_map(pairs)
        if self.is_adversarial:
            self.judges = nn.ModuleList(
                copy.deepcopy(self.loss) for _ in pairs)
            for judge, (s, _) in zip(self.judges, pairs):
                judge.build(s.shape[1], image.shape[1])
            self.judges.to(image.device)

    def _pairs(self, student: Levels, teacher: Levels) -> Pairs:
        """Which level of the teacher each level of the student looks at."""
        where = f'{self.key}.source'
        if hasattr(self.loss, 'pairs'):
            try:
                return self.loss.pairs(student, teacher)
            except ValueError as error:
                raise ConfigError(f'{where}: {error}') from error
        if len(student) != len(teacher):
            raise ConfigError(
                f'{where}: {len(student)} levels of the student '
                f'({_shapes(student)}) but {len(teacher)} of the teacher '
                f'({_shapes(teacher)}); pick the same number with [i]')
        if not student:
            raise ConfigError(f'{where}: gives no level at all')
        return list(zip(student, teacher))

    def _check_kinds(self, pairs: Pairs) -> None:
        """Tokens (L, 1) and a map (H, W) cannot be resized to each other."""
        for s, t in pairs:
            tall, wide = (a / b for a, b in zip(s.shape[2:], t.shape[2:]))
            if max(tall, wide) > 2.5 * min(tall, wide):
                raise ConfigError(
                    f'{self.key}.source: {tuple(s.shape)} of the student and '
                    f'{tuple(t.shape)} of the teacher are not maps of the '
                    'same image: tokens or RoIs against a map; name sources '
                    'of one kind, such as backbone[1] in both')

    def _check_strides(self, pairs: Pairs) -> None:
        for s, t in pairs:
            if any(max(a, b) > 1.5 * min(a, b) + 1
                   for a, b in zip(s.shape[2:], t.shape[2:])):
                raise ConfigError(
                    f'{self.key}.source: the levels have other strides in '
                    'student and teacher: sizes '
                    f'{[tuple(x.shape[2:]) for x, _ in pairs]} and '
                    f'{[tuple(x.shape[2:]) for _, x in pairs]}; pick those '
                    "of equal size, such as dict(student=['neck[0]'], "
                    "teacher=['neck[1]'])")

    def _check_classes(self, pairs: Pairs) -> None:
        name = type(self.loss).__name__
        is_sigmoid = self.scores is not None and self.scores.is_sigmoid
        if getattr(self.loss, 'activation', '') is None:
            self.loss.activation = 'sigmoid' if is_sigmoid else 'softmax'
        for s, t in pairs:
            if s.shape[1] != t.shape[1]:
                raise ConfigError(
                    f'{self.key}: {name} compares class scores, but the '
                    f'student has {s.shape[1]} classes and the teacher '
                    f'{t.shape[1]} (times anchors, in a dense detection '
                    'head); use a teacher of the same classes and anchors or '
                    "a loss on features, such as source='features'")
            if (s.shape[1] == 1 and not self.is_adversarial
                    and getattr(self.loss, 'activation', '') != 'sigmoid'):
                raise ConfigError(
                    f'{self.key}: {name} takes a softmax over the classes, '
                    'which is constant for the one channel here; use two '
                    'output channels or a loss on features')

    def _check_off_map(self, pairs: Pairs) -> None:
        """RoIs and queries have no place in the image."""
        for option, is_used in (
                ('foreground', self.foreground is not None),
                ('adjust', getattr(self.loss, 'adjust', None) is not None),
                ('type', self.is_adversarial)):
            if is_used:
                raise ConfigError(
                    f'{self.key}.{option}: needs maps of the image, but the '
                    'source gives RoIs or queries '
                    f"({_shapes(s for s, _ in pairs)}); use 'neck' or the "
                    "class scores of a dense head")
        has_positions = any(s.shape[2] * s.shape[3] > 1 for s, _ in pairs)
        if not has_positions and getattr(self.loss, 'needs_positions', False):
            raise ConfigError(
                f'{self.key}: {type(self.loss).__name__} compares positions, '
                'but the source gives one vector for each RoI '
                f"({_shapes(s for s, _ in pairs)}); use 'neck' or KDLoss")

    def aligned(self, student: Levels, teacher: Levels,
                areas: Areas) -> Pairs:
        """The pairs of levels as the loss sees them."""
        pairs = self._pairs(student, teacher)
        if getattr(self.loss, 'sizes', 'equal') == 'any':
            return pairs
        if self.scores is not None and self.scores.queries:
            pairs = [(s, match_queries(s, t, self.scores.is_sigmoid))
                     for s, t in pairs]
        adapters = self.adapters or [nn.Identity()] * len(pairs)
        pairs = [(adapt(s), resize_like(t, s))
                 for adapt, (s, t) in zip(adapters, pairs)]
        if not self._takes_weight and self.is_map and areas.is_padded:
            pairs = [(_cut(s, areas), _cut(t, areas)) for s, t in pairs]
        anchors = self._anchors(pairs[0][0])
        if anchors > 1:
            pairs = [(split_anchors(s, anchors), split_anchors(t, anchors))
                     for s, t in pairs]
        return pairs

    def _anchors(self, level: torch.Tensor) -> int:
        """How many class maps of each image a loss on class scores sees."""
        if (self.scores is None or not self.scores.classes
                or self.is_adversarial
                or getattr(self.loss, 'channels', '') != 'classes'):
            return 1
        return max(level.shape[1] // self.scores.classes, 1)

    def value(self, pairs: Pairs, label: torch.Tensor | None,
              image: torch.Tensor, areas: Areas) -> torch.Tensor:
        """The unweighted loss, summed over the pairs of levels."""
        losses = self.judges or [self.loss] * len(pairs)
        total = 0
        for loss, (s, t) in zip(losses, pairs):
            if not s.numel():  # no RoI at all: one that says nothing, since
                total = total + s.sum()  # the ranks must call a loss alike
                s = t = s.new_zeros((1, *s.shape[1:]))
            extra = {}
            if getattr(self.loss, 'needs_image', False):
                extra['image'] = image
            anchors = len(s) // len(image) if self.is_map else 1
            if self._takes_weight and self.is_map:
                extra['weight'] = _repeated(
                    areas.weight(s.shape[2:], self.foreground), anchors)
            total = total + loss(s, t, _repeated(label, anchors), **extra)
        return total

    def zero(self, device: torch.device) -> torch.Tensor:
        """An exact 0 that reaches the adapters, so that DDP misses none."""
        zero = torch.zeros((), device=device)
        for parameter in self.adapters.parameters():
            zero = zero + parameter.sum() * 0
        return zero


def _checked_weight(value: Any, key: str) -> float:
    if (isinstance(value, bool) or not isinstance(value, Real)
            or not 0 <= value <= MOST):
        raise ConfigError(f'{key} = {value!r}: a finite number >= 0, at most '
                          f'{MOST:g}, is needed')
    return float(value)


def _checked_share(value: Any, key: str) -> float | None:
    if value is None:
        return None
    if (isinstance(value, bool) or not isinstance(value, Real)
            or not 0 <= value <= 1):
        raise ConfigError(f'{key} = {value!r}: the share of the objects in '
                          'the weight of the positions; a number from 0 to 1 '
                          'is needed, 0.5 for equal weight')
    return float(value)


def _repeated(maps: torch.Tensor | None,
              anchors: int) -> torch.Tensor | None:
    """Each image's map once for each of its anchors."""
    if maps is None or anchors == 1:
        return maps
    return maps.repeat_interleave(anchors, 0)


def _cut(level: torch.Tensor, areas: Areas) -> torch.Tensor:
    return level * areas.weight(level.shape[2:])


def _shapes(levels: Iterable[torch.Tensor]) -> str:
    return ', '.join(str(tuple(level.shape)) for level in levels)
