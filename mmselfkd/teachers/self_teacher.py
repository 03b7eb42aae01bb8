"""A network on top of the student's features that refines them: FRSKD."""
import copy
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from ..errors import ConfigError
from ..heads import is_detector, rois_for, segmentation_head
from ..registry import TEACHERS
from ..sources import as_list
from ..taps import Tap
from .teacher import Lesson, Step, Teacher


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
        self.taps: dict[str, Tap] = {}

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if rois_for(student, source):
            raise ConfigError(
                f'{key} = {source!r}: the RoIs of a self-teacher are not '
                "those of the student; use 'neck' or 'rpn_head.rpn_cls', or "
                'switch the loss off')
        self._requests.setdefault(source, key)

    def fit(self, step: Step) -> None:
        """Build the network for the channels of the student's levels."""
        levels = self._levels(step)
        if is_detector(step.student):
            self.module = self._detector(step.student, levels)
        else:
            self.module = self._segmentor(step.student, levels)
        self.module.to(step.inputs.device)
        for source, key in self._requests.items():
            self.taps[source] = Tap(self.module, source, key)

    def teach(self, step: Step, sources: Iterable[str] | None) -> Lesson:
        for tap in self.taps.values():
            tap.open()
        levels = self._levels(step)
        if is_detector(step.student):
            losses = self.module.loss(levels, step.samples)
        else:
            losses = self.module.decode_head.loss(
                self.module.neck(levels), step.samples, None)
        for tap in self.taps.values():
            tap.close()
        levels = {s: tap.take() for s, tap in self.taps.items()}
        return Lesson(levels, {
            name: sum(x.mean() for x in _as_list(value))
            for name, value in losses.items() if 'loss' in name})

    def remove(self) -> None:
        for tap in self.taps.values():
            tap.remove()
        self.taps = {}

    def describe(self) -> str:
        parts = ', '.join(
            type(part).__name__ for part in self.module.children()
            if any(True for _ in part.parameters()))
        count = sum(p.numel() for p in self.module.parameters())
        return (f'{parts} on {", ".join(self.student_sources)}, {count:,} '
                'parameters, trained along; not in the saved student')

    def _levels(self, step: Step) -> list[torch.Tensor]:
        return [level for source in self.student_sources
                for level in step.seen[source]]

    def _neck(self, levels: list[torch.Tensor], **defaults) -> nn.Module:
        """The neck; its input channels are filled in."""
        cfg = dict(type='BiFPN') if self._neck_cfg is None else dict(
            self._neck_cfg)
        cfg.setdefault('in_channels', [level.shape[1] for level in levels])
        if cfg.get('type') == 'BiFPN':
            cfg |= {k: v for k, v in defaults.items() if k not in cfg}
        return _build(cfg, 'mmselfkd', f'{self.key}.neck').to(levels[0].device)

    def _detector(self, student: nn.Module,
                  levels: list[torch.Tensor]) -> nn.Module:
        """The student with the neck in place of all in front of its heads."""
        if self._head_cfg is not None:
            raise ConfigError(f"{self.key}.head = {self._head_cfg!r}: a "
                              "detector's self-teacher has a copy of its own "
                              'heads')
        front = [getattr(student, name, None)
                 for name in ('backbone', 'neck', 'data_preprocessor')]
        network = copy.deepcopy(
            student, {id(part): nn.Identity() for part in front if part})
        for part in network.children():
            if hasattr(part, 'init_weights'):
                part.init_weights()
        network.neck = self._neck(levels, width=1)
        return network

    def _segmentor(self, student: nn.Module,
                   levels: list[torch.Tensor]) -> nn.Module:
        theirs = segmentation_head(student, self.key)
        network = nn.Module()
        norm = dict(norm_cfg=theirs.norm_cfg) if theirs.norm_cfg else {}
        network.neck = self._neck(levels, **norm)
        with torch.no_grad():
            refined = copy.deepcopy(network.neck)(levels)
        network.decode_head = self._head(theirs, refined)
        return network

    def _head(self, theirs: nn.Module,
              refined: list[torch.Tensor]) -> nn.Module:
        """The head; what its config leaves open is the student's head's."""
        cfg = dict(type='SegformerHead') if self._head_cfg is None else dict(
            self._head_cfg)
        cfg.setdefault('in_index', list(range(len(refined))))
        index = cfg['in_index']
        channels = [level.shape[1] for level in refined]
        try:
            picked = channels[index] if isinstance(index, int) else [
                channels[i] for i in index]
        except IndexError:
            raise ConfigError(f'{self.key}.head.in_index = {index!r}: the '
                              f'neck gives {len(refined)} levels') from None
        cfg.setdefault('in_channels', picked)
        for name in ('channels', 'num_classes', 'out_channels', 'threshold',
                     'norm_cfg', 'align_corners', 'ignore_index'):
            cfg.setdefault(name, getattr(theirs, name))
        head = _build(cfg, 'mmseg', f'{self.key}.head')
        if 'loss_decode' not in cfg:
            head.loss_decode = copy.deepcopy(theirs.loss_decode)
        if 'sampler' not in cfg:
            head.sampler = copy.copy(theirs.sampler)
        return head


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _build(cfg: dict, scope: str, key: str) -> nn.Module:
    try:
        module = MMENGINE_MODELS.build({**cfg, '_scope_': scope})
    except Exception as error:  # any module may refuse its arguments anyhow
        raise ConfigError(f'{key} = {cfg!r}: {error}') from error
    if hasattr(module, 'init_weights'):
        module.init_weights()
    return module
