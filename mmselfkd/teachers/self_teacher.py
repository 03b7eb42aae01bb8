"""A network on top of the student's features that refines them: FRSKD."""
import copy
from typing import Any, Dict, Iterable, List, Optional

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from ..errors import ConfigError
from ..registry import TEACHERS
from ..taps import Tap, main_head
from ..terms import as_list
from .teacher import Lesson, Step, Teacher


@TEACHERS.register_module()
class SelfTeacher(Teacher):
    """A neck and a head of its own, trained along with the student.

    The neck refines the student's levels, the head learns the task from
    what the neck gives; its loss trains neck and head and, as the features
    are not detached, the student. Sources are the modules of this network:
    ``neck`` (the refined levels), ``logits`` and ``features``. It is absent
    from the saved student and from inference.

    Args:
        source (str | list[str]): The levels of the student to refine: its
            backbone's stages or its neck's levels. Defaults to 'backbone'.
        neck (dict, optional): Config of the refining neck; ``in_channels``
            and, for a BiFPN, the norm of the student's head are filled in.
            Defaults to ``dict(type='BiFPN')``, whose channels are twice
            those of the student's levels.
        head (dict, optional): Config of the head. What it does not say of
            ``in_channels``, ``in_index``, classes, norm and loss is taken
            from the neck and from the student's head. Defaults to a
            ``SegformerHead`` over all levels.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: The network cannot be built, the student has no head
            with class scores, or a part of the network would get no
            gradient.
    """

    def __init__(self,
                 source: Any = 'backbone',
                 neck: Optional[dict] = None,
                 head: Optional[dict] = None,
                 key: str = 'teacher') -> None:
        super().__init__(key)
        self.student_sources = as_list(source, f'{key}.source')
        for name, cfg in (('neck', neck), ('head', head)):
            if cfg is not None and not isinstance(cfg, dict):
                raise ConfigError(f'{key}.{name} = {cfg!r}: a dict is needed')
        self._neck_cfg = dict(type='BiFPN') if neck is None else dict(neck)
        self._head_cfg = (dict(type='SegformerHead') if head is None
                          else dict(head))
        self._requests: Dict[str, str] = {}
        self.taps: Dict[str, Tap] = {}

    def request(self, source: str, key: str) -> None:
        self._requests.setdefault(source, key)

    def fit(self, step: Step) -> None:
        """Build the network for the channels of the student's levels."""
        theirs = main_head(step.student, 'logits', self.key)
        levels = self._levels(step)
        cfg = dict(self._neck_cfg)
        cfg.setdefault('in_channels', [level.shape[1] for level in levels])
        if cfg.get('type') == 'BiFPN' and theirs.norm_cfg:
            cfg.setdefault('norm_cfg', theirs.norm_cfg)
        neck = _build(cfg, 'mmselfkd', f'{self.key}.neck')
        with torch.no_grad():
            refined = copy.deepcopy(neck.to(step.inputs.device))(levels)
        self.module = nn.Module()
        self.module.neck = neck
        self.module.decode_head = self._head(theirs, refined)
        self.module.to(step.inputs.device)
        for source, key in self._requests.items():
            self.taps[source] = Tap(self.module, source, key)

    def teach(self, step: Step, sources: Optional[Iterable[str]]) -> Lesson:
        for tap in self.taps.values():
            tap.open()
        refined = self.module.neck(self._levels(step))
        losses = self.module.decode_head.loss(refined, step.samples, None)
        for tap in self.taps.values():
            tap.close()
        levels = {s: tap.take() for s, tap in self.taps.items()}
        return Lesson(levels, {
            name: value for name, value in losses.items() if 'loss' in name})

    def remove(self) -> None:
        for tap in self.taps.values():
            tap.remove()
        self.taps = {}

    def describe(self) -> str:
        parts = (f'{type(self.module.neck).__name__} and '
                 f'{type(self.module.decode_head).__name__} on '
                 f'{", ".join(self.student_sources)}')
        count = sum(p.numel() for p in self.module.parameters())
        return (f'{parts}, {count:,} parameters, trained along; not in the '
                'saved student')

    def _levels(self, step: Step) -> List[torch.Tensor]:
        return [level for source in self.student_sources
                for level in step.seen[source]]

    def _head(self, theirs: nn.Module,
              refined: List[torch.Tensor]) -> nn.Module:
        """The head; what its config leaves open is the student's head's."""
        cfg = dict(self._head_cfg)
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


def _build(cfg: dict, scope: str, key: str) -> nn.Module:
    try:
        module = MMENGINE_MODELS.build({**cfg, '_scope_': scope})
    except Exception as error:  # any module may refuse its arguments anyhow
        raise ConfigError(f'{key} = {cfg!r}: {error}') from error
    if hasattr(module, 'init_weights'):
        module.init_weights()
    return module
