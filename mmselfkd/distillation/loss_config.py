"""One entry of ``losses`` as the user wrote it: what it asks for."""
import copy
from collections.abc import Sequence
from typing import Any, get_args

from ..checks import check_integer_or_none, check_not_negative, is_number
from ..errors import ConfigError, blamed_on, config_errors, nearest
from ..hosts.branches import POSITIVES
from ..losses.base import DistillationLoss
from ..registry import MODELS, SCHEDULES, build_part
from ..schedules import factor_at
from ..sources import STUDENT, Source, parse_source
from .plain_loss import as_distillation_loss

# what a loss declares by one of a few words
DECLARED = ('channels', 'sizes', 'level_reduction')
# what an entry may have beside the arguments of its loss
OPTIONS = ('source', 'loss_weight', 'share', 'schedule', 'foreground',
           'classes')
AUTO, SHARE = 'auto', 0.3  # a weight that follows from a share, by default


class LossConfig:
    """``loss_weight * schedule(t) * loss`` of what ``source`` names.

    Where ``loss_weight`` is ``'auto'``, it follows from ``share``.

    Args:
        name (str): The key in ``losses``; logged as ``distill.<name>``.
        cfg (dict): :data:`OPTIONS`, ``type`` and the arguments of the loss.
        key (str): Where ``cfg`` stands in the config, for the errors.
        teachers (Sequence[str]): Names of the teachers there are.

    Attributes:
        loss (DistillationLoss): The loss.
        source (str | list[str] | dict): What it compares, as it was written.
        loss_weight (float): 1 where it is ``'auto'``.
        share (float | None): The wanted share of the gradient where it is.
        student_sources, teacher_sources (list[Source]): What it compares.
        foreground (float | None): Share of the objects in an image's weight.
        classes (int | None): Channels of one anchor of class scores, where
            the user says so.

    Raises:
        ConfigError: Anything in ``cfg`` that cannot work, whatever the
            models are.
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
        self.source = cfg.pop('source')
        self.loss_weight, self.share = _weight_and_share(
            cfg.pop('loss_weight', 1.0), cfg.pop('share', None), key)
        self.foreground = cfg.pop('foreground', None)
        self.classes = cfg.pop('classes', None)
        with config_errors():
            check_integer_or_none(f'{key}.classes', self.classes, 1)
            if self.foreground is not None:  # the share of the objects
                check_not_negative(
                    f'{key}.foreground', self.foreground, most=1)
        schedule = cfg.pop('schedule', None)
        self.schedule = None if schedule is None else build_part(
            schedule, SCHEDULES, f'{key}.schedule')
        loss = build_part(cfg, MODELS, key, also=OPTIONS)
        with blamed_on(key):
            self.loss: DistillationLoss = as_distillation_loss(loss)
        self._check_declared()
        if self.foreground is not None and not self.loss.takes_weight:
            raise ConfigError(
                f'{key}.foreground = {self.foreground!r}: '
                f'{self.loss_name} takes no weight of positions')
        if self.foreground is not None and self.loss.needs_objects:
            raise ConfigError(
                f'{key}.foreground = {self.foreground!r}: {self.loss_name} '
                'weighs objects and background by itself; leave it out')
        self.student_sources, self.teacher_sources = parse_source(
            self.source, f'{key}.source', teachers)

    def _check_declared(self) -> None:
        """A user's own loss may misspell what the contract knows."""
        for name in DECLARED:
            allowed = get_args(DistillationLoss.__annotations__[name])
            value = getattr(self.loss, name)
            if value not in allowed:
                raise ConfigError(f'{self.key}: {self.loss_name}.{name} = '
                                  f'{value!r}' + nearest(value, allowed))

    @property
    def loss_name(self) -> str:
        """The class of the loss, for messages."""
        return type(getattr(self.loss, 'module', self.loss)).__name__

    @property
    def sources(self) -> list[Source]:
        """All that it looks at."""
        return self.student_sources + self.teacher_sources + (
            [Source(STUDENT, POSITIVES)] if self.loss.needs_positives else [])

    @property
    def teachers(self) -> list[str]:
        """The names of the teachers that it looks at."""
        return [source.owner for source in self.sources
                if source.owner != STUDENT]

    def with_teachers(self, names: dict[str, str]) -> 'LossConfig':
        """The same where the teachers have other names."""
        other = copy.copy(self)
        other.student_sources, other.teacher_sources = (
            [Source(names.get(owner, owner), path) for owner, path in sources]
            for sources in (self.student_sources, self.teacher_sources))
        return other

    def weight_at(self, iteration: int, epoch: int) -> float:
        """The weight in this iteration; at 0 the loss costs nothing.

        The factor of the schedule where the weight is ``'auto'``.
        """
        return self.loss_weight * factor_at(self.schedule, iteration, epoch)


def _weight_and_share(weight: Any, share: Any,
                      key: str) -> tuple[float, float | None]:
    """What the loss is multiplied by, and the share that it follows from."""
    key, of_share = f'{key}.loss_weight', f'{key}.share'
    if isinstance(weight, str) and weight != AUTO:
        raise ConfigError(f'{key} = {weight!r}: a number is needed, or '
                          f'{AUTO!r}' + nearest(weight, [AUTO]))
    if weight != AUTO:
        if share is not None:
            raise ConfigError(f'{of_share} = {share!r}: needs {key} = '
                              f'{AUTO!r}, but that is {weight!r}')
        with config_errors():
            check_not_negative(key, weight)
        return weight, None
    share = SHARE if share is None else share
    if not is_number(share) or not 0 < share < 1:
        raise ConfigError(f'{of_share} = {share!r}: the share of the gradient '
                          f'is a number between 0 and 1, such as {SHARE}')
    return 1., share
