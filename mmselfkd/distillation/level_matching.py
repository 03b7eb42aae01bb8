"""What makes the levels of a student and a teacher comparable."""
import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..hosts import Place, Reading
from ..hosts.host import ON_FEATURES
from ..hosts.places import split_queries
from ..layout import BACKGROUND, BatchLayout
from ..sources import Levels
from .loss_config import LossConfig
from .plain_loss import PlainLoss
from .query_matching import matched

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
FEATURES = Place([])  # of a source of which nothing is known


class LevelMatcher:
    """Pairs of levels, brought to one size and, where asked, one width.

    Built from one rehearsed batch, which it checks; then called in each
    iteration.

    Args:
        config (LossConfig): Whose levels they are. What its loss leaves to
            the student's head (``activation``, ``groups``) is filled in.
        student (list[Tensor]): The student's levels (N, C, H, W).
        teacher (list[Tensor]): The teacher's levels.
        ours (Sequence[Place]): Where the student's levels come from.
        theirs (Sequence[Place]): Where the teacher's come from.
        fixed_strides (bool): Whether several levels must come in the same
            strides: a detector assigns objects to them by size.

    Attributes:
        adapters (nn.ModuleList): What is trained along, one a pair; empty
            where nothing is adapted.
        is_map (bool): Whether the levels are maps of the image.
        partners (tuple[int] | None): The student's classes that a class map
            of the teacher leaves; None: all.

    Raises:
        ConfigError: Levels, dimensions, sizes or classes that do not agree,
            or an option that these levels cannot have.
    """

    def __init__(self, config: LossConfig, student: Levels, teacher: Levels,
                 ours: Sequence[Place] = (), theirs: Sequence[Place] = (),
                 fixed_strides: bool = False) -> None:
        self.config, self.loss = config, config.loss
        self.adapters = nn.ModuleList()
        self._where = f'{config.key}.source = {config.source!r}'
        self._switch_off = f'switch it off, losses=dict({config.name}=None)'
        for level in [*student, *teacher]:
            if level.dim() != 4:
                raise ConfigError(f'{self._where}: maps (N, C, H, W) are '
                                  f'needed, got {_shapes([level])}')
        self.place = self._one_place(ours)
        self._their_place = self._one_place(theirs)
        self._check_queries()
        if self.loss.channels == 'distributions':
            self._refuse_plain_boxes()
        self.is_map = all(place.is_map for place in ours)
        self.partners: tuple[int, ...] | None = None
        self._choose_classes(student, ours)
        pairs = self.pairs(student, teacher)
        if self.loss.sizes == 'equal' and not self.place.queries:
            self._check_sizes(pairs)
            if fixed_strides and len(pairs) > 1:
                self._check_strides(pairs)
        self._check_channels(pairs)
        if not self.is_map:
            self._check_regions(pairs)

    # -- in each iteration ----------------------------------------------------

    def pairs(self, student: Levels, teacher: Levels) -> Pairs:
        """Which level of the teacher each level of the student looks at."""
        if self.partners is not None:
            student = [self._chosen(level) for level in student]
        try:
            pairs = self.loss.pair_levels(student, teacher)
        except ValueError as error:
            raise ConfigError(
                f'{self._where}: {error}; a source may be a list of modules, '
                f'also of those inside another, or {self._switch_off}'
                f'{self._or_features()}') from error
        return [self._matched(*pair) for pair in pairs] if (
            self.place.queries) else pairs

    def __call__(self, student: Levels, teacher: Levels,
                 layout: BatchLayout) -> Pairs:
        """The pairs of levels as the loss sees them."""
        pairs = self.pairs(student, teacher)
        if self.loss.sizes == 'any':
            return pairs
        adapters = self.adapters or [nn.Identity()] * len(pairs)
        pairs = [(adapt(s), resize_like(t, s))
                 for adapt, (s, t) in zip(adapters, pairs)]
        if not self.loss.takes_weight and self.is_map and layout.is_padded:
            pairs = [(layout.cut(s), layout.cut(t)) for s, t in pairs]
        return [self._split(s, t) for s, t in pairs]

    def label(self, label: torch.Tensor | None) -> torch.Tensor | None:
        """Class maps (N, H, W) by the channels of the pairs.

        A class without a partner becomes none; what is ignored stays so.
        """
        if label is None or self.partners is None:
            return label
        is_class = (label >= 0) & (label < self._classes)
        return self._channel_of[label.where(is_class, 0)].where(
            is_class, label)

    def _chosen(self, scores: torch.Tensor) -> torch.Tensor:
        """Those of the student's class scores that have a partner."""
        if self.place.queries:
            scores, boxes = split_queries(scores)
            return torch.cat([self._with_partner(scores), boxes], 1)
        return self._with_partner(scores)

    def _with_partner(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.unflatten(1, (-1, self._classes)).index_select(
            2, self._index).flatten(1, 2)

    def _matched(self, student: torch.Tensor, teacher: torch.Tensor
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class scores, or boxes, of matched queries.

        Raises:
            ConfigError: They are of other classes, so nothing can be matched.
        """
        if student.shape[1] != teacher.shape[1]:
            self._check_counts(Reading('classes'), Reading('classes'), [
                (split_queries(student)[0], split_queries(teacher)[0])])
        reading = self.place.reading
        part = int(reading is not None and reading.kind == 'values')
        student, teacher = matched(
            student, teacher, self._activation() == 'sigmoid')
        return split_queries(student)[part], split_queries(teacher)[part]

    def _split(self, student: torch.Tensor,
               teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A map of class scores for each anchor, where there are several."""
        anchors = self._anchors(student)
        if anchors == 1:
            return student, teacher
        return (split_anchors(student, anchors),
                split_anchors(teacher, anchors))

    def _anchors(self, level: torch.Tensor) -> int:
        """How many class maps of each image a loss on class scores sees."""
        if self.loss.channels != 'classes' or self.loss.is_adversarial:
            return 1
        reading = self._reading(self.place)
        if reading is None or reading.kind != 'classes':
            return 1
        return reading.groups(level.shape[1])

    # -- checks of a rehearsed batch ------------------------------------------

    def _one_place(self, places: Sequence[Place]) -> Place:
        """The place that stands for all, which must be read alike."""
        if not places:
            return FEATURES
        readings = {place.reading for place in places}
        if len(readings) > 1 and self.loss.channels == 'classes':
            raise ConfigError(
                f'{self._where}: {self.config.loss_name} compares class '
                'scores, but these sources are of several kinds: '
                f'{", ".join(map(_kind, readings))}')
        return places[0]

    def _check_queries(self) -> None:
        """Object queries are compared with object queries."""
        count, other = self.place.queries, self._their_place.queries
        if bool(count) == bool(other):
            return
        raise ConfigError(
            f'{self._where}: what belongs to the {count or other} object '
            f'queries of the {"student" if count else "teacher"} can be '
            f'compared with that of queries alone; {ON_FEATURES}')

    def _refuse_plain_boxes(self) -> None:
        """The boxes of both are distributions."""
        for place, who in ((self.place, 'student'),
                           (self._their_place, 'teacher')):
            if (place.reading is None
                    or place.reading.kind != 'distributions'):
                raise ConfigError(
                    f'{self._where}: {self.config.loss_name} compares the '
                    'distributions of box sides, but the source of the '
                    f'{who} gives {_kind(place.reading)}; use a {who} whose '
                    "boxes are distributions (GFL) with source='boxes', or "
                    "a loss for values, type='ValueLoss' with source='boxes'")

    def _choose_classes(self, student: Levels,
                        ours: Sequence[Place]) -> None:
        """Leave those of the student's classes that the teacher maps to.

        Of queries always: they are matched by their class scores.
        """
        theirs, scores = self._their_place.reading, student[0]
        if theirs is None or theirs.partners is None:
            return
        if self.place.queries:
            reading, scores = self.place.reading, split_queries(scores)[0]
        else:
            reading = self._reading(self.place)
        if reading is None and self.loss.channels == 'classes':
            reading = Reading('classes', self.loss.activation)
        if reading is None or not self.place.queries and (
                reading.kind != 'classes'
                or len({place.reading for place in ours}) > 1):
            return
        self._classes = reading.size or scores.shape[1]
        if max(theirs.partners) >= self._classes:
            raise ConfigError(
                f'{self.config.key}: the class map of the teacher leads to '
                f'class {max(theirs.partners)} of the student, whose head has '
                f'{self._classes} (0 to {self._classes - 1}); its head and '
                'the classes of train_dataloader.dataset do not agree')
        self.partners = theirs.partners
        device = student[0].device
        self._index = torch.tensor(self.partners, device=device)
        self._channel_of = torch.full(
            (self._classes, ), BACKGROUND, device=device)
        self._channel_of[self._index] = torch.arange(
            len(self.partners), device=device)
        self.place = dataclasses.replace(
            self.place, reading=dataclasses.replace(
                reading, partners=self.partners,
                size=len(self.partners) if reading.kind == 'classes'
                else None))
        ignored = self.loss.ignore_index
        if isinstance(ignored, int) and 0 <= ignored < self._classes:
            raise ConfigError(
                f'{self.config.key}.ignore_index = {ignored}: is a class of '
                'the student, and a class map numbers the classes anew; let '
                'the data set turn it into 255')

    def _reading(self, place: Place) -> Reading | None:
        """How to read the channels, as the user says or the head."""
        config, reading = self.config, place.reading
        if reading is not None and reading.partners is not None:
            return reading
        if config.classes is not None:
            activation = None if reading is None else reading.activation
            return Reading('classes', activation, config.classes)
        return reading

    def _activation(self) -> str | None:
        """Of class scores: as the user says, else as the head does."""
        reading = self._reading(self.place)
        if self.loss.activation is not None or reading is None:
            return self.loss.activation
        return reading.activation

    def _check_sizes(self, pairs: Pairs) -> None:
        """Tokens (L, 1) and a map (H, W) cannot be resized to each other."""
        for s, t in pairs:
            sizes = s.shape[2:], t.shape[2:]
            tall, wide = (a / b for a, b in zip(*sizes))
            is_tokens = any(height > 1 and width == 1
                            for height, width in sizes) and (
                                not self.place.is_map
                                or not self._their_place.is_map)
            if max(tall, wide) > 2.5 * min(tall, wide) or (
                    is_tokens and sizes[0] != sizes[1]):
                raise ConfigError(
                    f'{self._where}: {tuple(s.shape)} of the student and '
                    f'{tuple(t.shape)} of the teacher are not maps of the '
                    'same image: tokens whose grid is not known, or RoIs, '
                    'against something else; name sources of one kind, such '
                    f'as backbone[1] in both{self._or_features()}')

    def _or_features(self) -> str:
        """The way that is open where the outputs of heads do not fit."""
        return '' if self.place.reading is None else f', or {ON_FEATURES}'

    def _check_strides(self, pairs: Pairs) -> None:
        for s, t in pairs:
            if any(max(a, b) > 1.5 * min(a, b) + 1
                   for a, b in zip(s.shape[2:], t.shape[2:])):
                raise ConfigError(
                    f'{self._where}: the levels have other strides in '
                    'student and teacher: sizes '
                    f'{[tuple(x.shape[2:]) for x, _ in pairs]} and '
                    f'{[tuple(x.shape[2:]) for _, x in pairs]}; pick those '
                    "that agree with [i], such as source=dict("
                    "student='neck[0]', teacher='neck[1]')")

    def _check_channels(self, pairs: Pairs) -> None:
        kind = self.loss.channels
        self._check_alike(pairs)
        if kind == 'adapt':
            self._check_own_loss(pairs)
            self.adapters = build_adapters(pairs)
        elif kind == 'classes':
            self._check_classes(pairs)
        elif kind == 'distributions':
            self._check_distributions(pairs)
        elif kind == 'equal':
            for s, t in pairs:
                if s.shape[1] != t.shape[1]:
                    raise ConfigError(
                        f'{self._where}: {self.config.loss_name} compares '
                        f'values channel by channel, but the student has '
                        f'{s.shape[1]} and the teacher {t.shape[1]}')

    def _check_alike(self, pairs: Pairs) -> None:
        """A loss that goes channel by channel, on the outputs of heads."""
        ours, theirs = map(self._reading, (self.place, self._their_place))
        if (ours is not None and theirs is not None
                and ours.kind == theirs.kind != 'values'
                and self.loss.channels in ('adapt', 'equal')
                and not isinstance(self.loss, PlainLoss)):
            self._check_counts(ours, theirs, pairs)

    def _check_own_loss(self, pairs: Pairs) -> None:
        """No adapter between class scores for a loss that did not ask."""
        reading = self._reading(self.place)
        if (isinstance(self.loss, PlainLoss)
                and not self.loss.declares_channels and reading is not None
                and any(s.shape[1] != t.shape[1] for s, t in pairs)):
            raise ConfigError(
                f'{self.config.key}: {self.config.loss_name} does not say '
                'what the channels of its maps must be, and those of '
                f'{_kind(reading)} differ ({_shapes(s for s, _ in pairs)} '
                f'and {_shapes(t for _, t in pairs)}); give the class an '
                "attribute channels = 'classes' (no adapter), 'adapt' (a 1x1 "
                "convolution on the student's side) or 'any'")

    def _check_classes(self, pairs: Pairs) -> None:
        ours = self._reading(self.place)
        theirs = self._reading(self._their_place) or ours
        loss = self.loss
        if not loss.is_adversarial:
            if ours is not None and ours.kind == 'values':
                self._refuse_values(pairs)
            if self._activation() is None:
                self._refuse_unknown()
            if ours is not None and ours.kind == 'distributions':
                self._fill_groups(ours, pairs)
        self._check_counts(ours, theirs, pairs)
        if loss.activation is None:
            self._check_activations(ours, theirs)
            loss.activation = self._activation()

    def _check_distributions(self, pairs: Pairs) -> None:
        """The box sides of both have the same bins."""
        ours, theirs = self.place.reading, self._their_place.reading
        assert ours is not None and theirs is not None
        sides = {_parts(theirs, t.shape[1]) for _, t in pairs}
        if ours.size != theirs.size or {groups for groups, _ in sides} != {4}:
            raise ConfigError(
                f'{self._where}: {self.config.loss_name} compares 4 sides '
                f'of {ours.size} bins, but the teacher has '
                f'{_count(theirs, pairs[0][1].shape[1])}; use a teacher with '
                'the same reg_max and one anchor at a position')
        self.loss.bins = ours.size

    def _check_counts(self, ours: Reading | None, theirs: Reading | None,
                      pairs: Pairs) -> None:
        reading = ours or theirs or Reading('classes')
        way = ('of the same reg_max'  # a class map does not reach bins
               if reading.kind == 'distributions' else
               'of the same classes and anchors, map its classes, '
               "teacher=dict(..., classes=dict(by='name'))")
        for s, t in pairs:
            if _parts(ours, s.shape[1]) != _parts(theirs, t.shape[1]):
                raise ConfigError(
                    f'{self.config.key}: {self.config.loss_name} compares '
                    f'{_kind(reading)}, but the student has '
                    f'{_count(ours, s.shape[1])} and the teacher '
                    f'{_count(theirs, t.shape[1])}; use a teacher {way}, or '
                    f'{ON_FEATURES}')

    def _check_activations(self, ours: Reading | None,
                           theirs: Reading | None) -> None:
        if (ours is not None and theirs is not None
                and None not in (ours.activation, theirs.activation)
                and ours.activation != theirs.activation):
            raise ConfigError(
                f'{self.config.key}: the class scores of the student are '
                f'read by a {ours.activation}, those of the teacher by a '
                f'{theirs.activation}; say activation={ours.activation!r} to '
                f'read both alike, or {ON_FEATURES}')

    def _refuse_unknown(self) -> None:
        raise ConfigError(
            f'{self.config.key}: {self.config.loss_name} compares class '
            'scores, and how those of '
            f'{_paths(self.config.student_sources)} are read is not known; '
            "say activation='softmax' or activation='sigmoid' (and, with "
            'several anchors at a position, classes=<channels of one '
            "anchor>), use source='logits', or register the head by "
            f'mmselfkd.hosts.register_head, or {ON_FEATURES}')

    def _kd(self) -> str:
        """What to write for the same scores; another type has no preset."""
        return ("type='KDLoss' with "
                f'source={self.config.student_sources[0].path!r}')

    def _refuse_values(self, pairs: Pairs) -> None:
        raise ConfigError(
            f'{self.config.key}: {self.config.loss_name} compares class '
            f'scores, but {_paths(self.config.student_sources)} gives values '
            f'({_shapes(s for s, _ in pairs)}), such as box offsets or '
            "depth; use a loss for values, type='ValueLoss' with "
            f'source={self.config.student_sources[0].path!r}, or '
            f'{ON_FEATURES}')

    def _fill_groups(self, reading: Reading, pairs: Pairs) -> None:
        """Box sides are distributions of their own."""
        if not _takes(self.loss, 'groups'):
            raise ConfigError(
                f'{self.config.key}: {self.config.loss_name} compares the '
                f'scores of classes, but {_paths(self.config.student_sources)}'
                f' gives distributions of box sides; use {self._kd()}')
        sides = reading.groups(pairs[0][0].shape[1])
        if self.loss.groups not in (None, sides):
            raise ConfigError(
                f'{self.config.key}.groups = {self.loss.groups!r}: '
                f'{_paths(self.config.student_sources)} gives {sides} '
                f'distributions of box sides; write groups={sides}, or leave '
                'it out')
        self.loss.groups = sides

    def _check_regions(self, pairs: Pairs) -> None:
        """RoIs and queries have no place in the image."""
        loss, key = self.loss, self.config.key
        kind = self.config.loss_name if loss.is_adversarial else None
        for option, value, remedy in (
                ('foreground', self.config.foreground,
                 'write foreground=None'),
                ('adjust', getattr(loss, 'adjust', None),
                 'write adjust=None'),
                ('type', kind, self._switch_off)):
            if value is not None:
                raise ConfigError(
                    f'{key}.{option} = {value!r}: needs maps of the image, '
                    'but the source gives RoIs or queries '
                    f'({_shapes(s for s, _ in pairs)}); {remedy}, or name '
                    'a source of maps')
        has_positions = any(s.shape[2] * s.shape[3] > 1 for s, _ in pairs)
        if not has_positions and loss.needs_positions:
            other = (f'use {self._kd()}' if loss.channels == 'classes' else
                     "name a source of maps, such as source='features'")
            raise ConfigError(
                f'{key}: {self.config.loss_name} compares positions, '
                'but the source gives one vector for each RoI '
                f'({_shapes(s for s, _ in pairs)}); {self._switch_off}, or '
                f'{other}')


def build_adapters(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
                   ) -> nn.ModuleList:
    """One module a level: a 1x1 convolution where the channels differ.

    Args:
        pairs (Sequence[tuple]): Levels of the student (N, C_s, H, W) and of
            the teacher (N, C_t, H', W').

    Returns:
        nn.ModuleList: ``Conv2d(C_s, C_t, 1)`` or ``Identity`` per level.
    """
    return nn.ModuleList(
        nn.Identity() if s.shape[1] == t.shape[1] else nn.Conv2d(
            s.shape[1], t.shape[1], kernel_size=1, device=s.device)
        for s, t in pairs)


def resize_like(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """The teacher's map at the student's size, bilinear where they differ."""
    size = student.shape[2:]
    if teacher.shape[2:] == size:
        return teacher
    return F.interpolate(
        teacher, size=size, mode='bilinear', align_corners=False)


def split_anchors(scores: torch.Tensor, anchors: int) -> torch.Tensor:
    """Class scores of every anchor as maps of their own.

    Args:
        scores (Tensor): (N, anchors * K, H, W), anchor by anchor.
        anchors (int): How many there are at a position.

    Returns:
        Tensor: (N * anchors, K, H, W).
    """
    return scores.unflatten(1, (anchors, -1)).flatten(0, 1)


def _takes(loss: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(type(loss)).parameters


def _parts(reading: Reading | None, channels: int) -> tuple[int, int]:
    groups = 1 if reading is None else reading.groups(channels)
    return groups, channels // groups


def _count(reading: Reading | None, channels: int) -> str:
    groups, size = _parts(reading, channels)
    if reading is not None and reading.kind == 'distributions':
        return f'{groups} sides of {size} bins'
    anchors = '' if groups == 1 else f' for each of {groups} anchors'
    return f'{size} classes{anchors}'


def _kind(reading: Reading | None) -> str:
    return 'features' if reading is None else dict(
        classes='class scores', distributions='box distributions',
        values='values')[reading.kind]


def _paths(sources: Iterable[Any]) -> str:
    return ', '.join(repr(source.path) for source in sources)


def _shapes(levels: Iterable[torch.Tensor]) -> str:
    return ', '.join(str(tuple(level.shape)) for level in levels)
