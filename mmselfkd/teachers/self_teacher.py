"""A network on top of the student's features that refines them: FRSKD."""
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..hosts import Place, attribute, host_of
from ..registry import TEACHERS
from ..sources import Levels, as_list
from ..taps import Tap
from .teacher import BatchContext, Teacher, TeacherOutput


@TEACHERS.register_module()
class SelfTeacher(Teacher):
    """A neck and a head of its own, trained along with the student.

    The neck refines the student's levels, the head learns the task from
    what the neck gives; its loss trains neck and head and, as the features
    are not detached, the student. Sources are the modules of this network:
    ``neck`` (the refined levels), ``logits`` and ``features``. It is absent
    from the saved student and from inference.

    In a detector the levels are those of its neck, and head and loss are a
    copy of the detector's own (of both stages, where there are two), started
    anew.

    Args:
        source (str | list[str]): The levels of the student to refine.
            Defaults to 'pyramid': the levels of a detector's neck, the stages
            of a segmentor's backbone.
        neck (dict, optional): Config of the refining neck; ``in_channels``
            and, for a BiFPN, the norm of the student's head are filled in.
            Defaults to ``dict(type='BiFPN')``, whose channels are twice
            those of the student's levels; in a detector they are the same,
            as its head needs them.
        head (dict, optional): Config of the head of a segmentor. What it does
            not say of ``in_channels``, ``in_index``, classes, norm and loss
            is taken from the neck and from the student's head. Defaults to a
            ``SegformerHead`` over all levels.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: The network cannot be built, the student has no head
            that can be copied, or a part of the network would get no
            gradient.
    """

    def __init__(self,
                 source: Any = 'pyramid',
                 neck: dict | None = None,
                 head: dict | None = None,
                 key: str = 'teacher') -> None:
        super().__init__(key)
        self.student_sources = as_list(source, f'{key}.source')
        for name, cfg in (('neck', neck), ('head', head)):
            if cfg is not None and not isinstance(cfg, dict):
                raise ConfigError(f'{key}.{name} = {cfg!r}: a dict is needed')
        self._neck_cfg, self._head_cfg = neck, head
        self._requests: dict[str, str] = {}
        self._taps: dict[str, Tap] = {}

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if host_of(student).regions_for(student, source):
            name = key.split('.')[-2]
            maps = '' if attribute(student, 'rpn_head.rpn_cls') is None else (
                ', or name class scores of maps, such as '
                "source='rpn_head.rpn_cls'")
            raise ConfigError(
                f'{key} = {source!r}: the RoIs of a self-teacher are not '
                f'those of the student; switch it off, losses=dict({name}='
                f'None){maps}')
        self._requests.setdefault(source, key)

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        """Build the network for the channels of the student's levels."""
        refinement = context.host.refinement(
            context.student, self._levels(context), self._neck_cfg,
            self._head_cfg, self.key)
        self.module = refinement.network.to(context.inputs.device)
        self._losses = refinement.losses
        for source, key in self._requests.items():
            self._taps[source] = Tap(self.module, source, key, resources)

    def place(self, source: str) -> Place | None:
        return self._taps[source].place

    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        for tap in self._taps.values():
            tap.open()
        losses = self._losses(self._levels(context), context.samples)
        for tap in self._taps.values():
            tap.close()
        levels = {s: tap.take(context.inputs.shape)
                  for s, tap in self._taps.items()}
        return TeacherOutput(levels, {
            name: sum(x.mean() for x in _as_list(value))
            for name, value in losses.items() if 'loss' in name})

    def describe(self) -> str:
        assert self.module is not None
        parts = ', '.join(
            type(part).__name__ for part in self.module.children()
            if any(True for _ in part.parameters()))
        count = sum(p.numel() for p in self.module.parameters())
        return (f'{parts} on {", ".join(self.student_sources)}, {count:,} '
                'parameters, trained along; not in the saved student')

    def _levels(self, context: BatchContext) -> Levels:
        return [level for source in self.student_sources
                for level in context.levels[source]]


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]
