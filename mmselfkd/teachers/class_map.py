"""The classes of a teacher as those of a student with other labels."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, nearest
from ..hosts import Reading

KEYS = ('map', 'by', 'names')
NOTHING = -1  # in place of a class that is not there


class ClassMap:
    r"""Which classes of a teacher teach which of a student.

    :math:`m(c)` are the teacher's classes of the student's class :math:`c`,
    and :math:`P` the student's classes that have one. The others of both
    sides take no part: as if they could be excluded. So the student's side is
    a softmax over :math:`P` alone, and the teacher's probabilities are summed
    and divided by those of its classes that have a partner:

    .. math::
        q^s_c = \frac{e^{s_c}}{\sum_{j \in P} e^{s_j}}, \quad
        q^t_c = \frac{\sum_{k \in m(c)} e^{t_k}}
                     {\sum_{j \in P} \sum_{k \in m(j)} e^{t_k}}, \quad
        c \in P

    Here :math:`s_c` and :math:`t_k` are the logits of one position and one
    anchor. The teacher's are given back as :math:`\log \sum_{k \in m(c)}
    e^{t_k}`, of which a softmax makes :math:`q^t`; a temperature of the loss
    divides these.

    Of a sigmoid each class is a question of its own, and the teacher's
    answer is :math:`q^t_c = \max_{k \in m(c)} \sigma(t_k)`. The sum, or one
    minus the product of the noes, would make an object of the many small
    scores that a detector gives to background.

    The background channel of a softmax detector, the last, is a class of its
    own on both sides and its own partner.

    Args:
        config (dict): ``map``, a dict from the teacher's names to the
            student's, several of which may be the same, or
            ``by='name'``: those of equal names, where upper case, spaces,
            ``_`` and ``-`` do not count. ``names``, the teacher's classes in
            their order, where its files do not say them.
        theirs (Sequence[str], optional): Names of the teacher's classes.
        ours (Sequence[str], optional): Names of the student's classes.
        key (str): Where ``config`` stands in the user's config.

    Attributes:
        partners (tuple[int]): The student's classes with a partner.
        groups (list[list[int]]): The teacher's classes of each of them.

    Shape:
        Scores are (N, A K, H, W) of A anchors and K classes, or K + 1 with a
        background, and become (N, A P, H, W), or P + 1.

    Raises:
        ConfigError: A name that is none of a class, names that are not known,
            or a map that leaves nothing.
    """

    def __init__(self, config: Any, theirs: Sequence[str] | None,
                 ours: Sequence[str] | None, key: str) -> None:
        if not isinstance(config, Mapping) or (
                ('map' in config) == ('by' in config)):
            raise ConfigError(
                f"{key} = {config!r}: dict(map={{'teacher name': 'student "
                "name', ...}) or dict(by='name') is needed")
        for name, value in config.items():
            if name not in KEYS:
                raise ConfigError(f'{key}.{name} = {value!r}: no such key' +
                                  nearest(name, KEYS))
        self.key = key
        self.theirs = _names(config.get('names', theirs), f'{key}.names', (
            'the files of the teacher do not say'))
        self.ours = _names(ours, 'train_dataloader.dataset.metainfo.classes',
                           'the data set does not say')
        pairs = self._by_name(config['by']) if 'by' in config else (
            self._by_map(config['map']))
        self.partners = tuple(sorted(set(pairs.values())))
        self.groups = [[k for k in pairs if pairs[k] == c]
                       for c in self.partners]
        if not self.partners:
            raise ConfigError(
                f'{key} = {dict(config)!r}: no class has a partner; the '
                f'teacher has {_some(self.theirs)}, the student '
                f'{_some(self.ours)}; say map={{...}}, or leave it out and '
                'use a loss on features')
        self._indices: dict[Any, Tensor] = {}

    def reading(self, reading: Reading, channels: int) -> Reading:
        """How the scores given back are to be read.

        Args:
            reading (Reading): Of the teacher's own scores.
            channels (int): How many these are at a position.
        """
        partners = self.partners
        if self._has_background(reading.size or channels):
            partners = *partners, len(self.ours)
        size = len(partners) if reading.kind == 'classes' else None
        return dataclasses.replace(reading, size=size, partners=partners)

    def __call__(self, scores: Tensor, reading: Reading) -> Tensor:
        """Scores of the student's classes, of those of the teacher's."""
        scores = scores.to(
            torch.promote_types(scores.dtype, torch.float32))
        size = reading.size or scores.shape[1]
        index = self._index(self._has_background(size), scores.device)
        each = scores.unflatten(1, (-1, size)).movedim(2, 0)  # (K, N, A, ...)
        each = each.index_select(0, index.clamp(min=0).flatten()).unflatten(
            0, index.shape)  # (P, the longest group, N, A, ...)
        if index.shape[1] > 1:
            each = each.masked_fill((index == NOTHING).view(
                *index.shape, *[1] * (each.dim() - 2)), float('-inf'))
            each = (each.amax(1) if reading.activation == 'sigmoid'
                    else each.logsumexp(1))
        else:
            each = each.squeeze(1)
        return each.movedim(0, 2).flatten(1, 2)

    def describe(self) -> str:
        """Which classes teach which, for the log."""
        taught = '; '.join(
            f'{self.ours[c]} <- {" + ".join(self.theirs[k] for k in group)}'
            for c, group in zip(self.partners, self.groups))
        alone = [name for c, name in enumerate(self.ours)
                 if c not in self.partners]
        unused = len(self.theirs) - sum(map(len, self.groups))
        return (f'classes (student <- teacher): {taught}; without a partner: '
                f'{", ".join(alone) or "none"} of the student, {unused} of '
                'the teacher')

    def _has_background(self, size: int) -> bool:
        count = len(self.theirs)
        if size in (count, count + 1):
            return size == count + 1
        raise ConfigError(
            f'{self.key}: the teacher has {count} class names '
            f'({_some(self.theirs)}), but {size} class scores; say names='
            '[...] in their order')

    def _index(self, has_background: bool, device: torch.device) -> Tensor:
        """Rows of the teacher's classes, filled up with ``NOTHING``."""
        key = has_background, device
        if key not in self._indices:  # a copy to a GPU in each step would wait
            groups = [*self.groups, *[[len(self.theirs)]] * has_background]
            longest = max(map(len, groups))
            self._indices[key] = torch.tensor(
                [group + [NOTHING] * (longest - len(group))
                 for group in groups], device=device)
        return self._indices[key]

    def _by_name(self, by: Any) -> dict[int, int]:
        if by != 'name':
            raise ConfigError(f"{self.key}.by = {by!r}: 'name' is needed")
        ours = {_plain(name): c for c, name in enumerate(self.ours)}
        return {k: ours[_plain(name)] for k, name in enumerate(self.theirs)
                if _plain(name) in ours}

    def _by_map(self, pairs: Any) -> dict[int, int]:
        where = f'{self.key}.map'
        if not isinstance(pairs, Mapping):
            raise ConfigError(f'{where} = {pairs!r}: a dict from names of the '
                              "teacher's classes to the student's is needed")
        for name, names, whose in (
                *((k, self.theirs, 'teacher') for k in pairs),
                *((c, self.ours, 'student') for c in pairs.values())):
            if name not in names:
                raise ConfigError(
                    f'{where}: {name!r} is no class of the {whose}' +
                    nearest(name, names))
        return {self.theirs.index(k): self.ours.index(c)
                for k, c in pairs.items()}


def _names(names: Any, key: str, problem: str) -> list[str]:
    """Class names as a list of strings."""
    if not names:
        raise ConfigError(f'{key}: the class names are needed for a class '
                          f'map, and {problem} them')
    if isinstance(names, str) or not all(
            isinstance(name, str) for name in names):
        raise ConfigError(f'{key} = {names!r}: a list of names is needed')
    return list(names)


def _plain(name: str) -> str:
    return ' '.join(name.casefold().replace('_', ' ').replace(
        '-', ' ').split())


def _few(names: Sequence[str], most: int = 8) -> list[str]:
    return [*names[:most], *['...'] * (len(names) > most)]


def _some(names: Sequence[str]) -> str:
    return ', '.join(_few(names))
