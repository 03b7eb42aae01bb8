"""The student on mixed images, and an aggregating head: MixSKD."""
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.dist import get_rank
from torch import nn

from ..errors import ConfigError
from ..hosts import Place, Reading, host_of
from ..registry import TEACHERS
from ..sources import as_list, gather
from .teacher import BatchContext, Teacher, TeacherOutput

SOURCES = ('interpolated.features', 'mixed.features',
           'interpolated.branches', 'mixed.branches',
           'interpolated.logits', 'mixed.logits',
           'interpolated.aggregated', 'mixed.aggregated')


class MixNetwork(nn.Module):
    """Branches that bring every stage to the shape of the last features.

    Args:
        stages (list[int]): Channels of the backbone's stages but the last.
        channels (int): Channels of what enters the student's classifier.
        num_classes (int): Channels of its class scores.
        norm_cfg (dict): Norm of the branches.
    """

    def __init__(self, stages: list[int], channels: int, num_classes: int,
                 norm_cfg: dict) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvModule(stage, channels, 3, padding=1, norm_cfg=norm_cfg)
            for stage in stages)
        self.classifiers = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1) for _ in stages)
        self.aggregate = nn.Conv2d(
            (len(stages) + 1) * channels, channels, 1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, stages: list[torch.Tensor], features: torch.Tensor
                ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Aligned features of all stages, class scores of the branches."""
        aligned = [
            F.interpolate(
                branch(stage), size=features.shape[2:], mode='bilinear',
                align_corners=False)
            for branch, stage in zip(self.branches, stages)]
        scores = [classifier(x)
                  for classifier, x in zip(self.classifiers, aligned)]
        return [*aligned, features], scores

    def aggregated(self, aligned: list[torch.Tensor]) -> torch.Tensor:
        """Class scores of the self-teacher, from all stages together."""
        return self.classifier(self.aggregate(torch.cat(aligned, 1)))


@TEACHERS.register_module()
class MixTeacher(Teacher):
    r"""What the student says of mixed images, against a mix of what it says.

    With :math:`\tilde x = \lambda x + (1 - \lambda) x_\pi`, :math:`\lambda
    \sim Beta(a, a)` for the batch and :math:`\pi` pairing every image with
    another, the student runs a second time, on :math:`\tilde x`. Every stage
    :math:`l < L` of the backbone has a branch to the shape of
    :math:`F_L`, what enters the student's classifier, and a classifier of
    its own; a self-teacher classifies all :math:`F_l` together. The sources:

    - ``interpolated.features``, ``mixed.features``: :math:`\lambda F_l(x) +
      (1 - \lambda) F_l(x_\pi)` and :math:`F_l(\tilde x)`, :math:`l = 1..L`;
    - ``interpolated.branches``, ``mixed.branches``: the same of the logits
      of the branches, :math:`l = 1..L-1`;
    - ``interpolated.logits``, ``mixed.logits``: of the student's own logits;
    - ``interpolated.aggregated``, ``mixed.aggregated``: logits of the
      self-teacher from the interpolated and from the mixed features.

    Its own losses: the task loss of the student's head for the branches on
    the plain images; and :math:`\lambda L(\cdot, y) + (1 - \lambda) L(\cdot,
    y_\pi)` for branches, student and self-teacher where images are mixed. A
    pixel that is ignored in either label map takes no part in the latter nor
    in the losses that look here.

    :math:`\lambda` and :math:`\pi` follow from seed, rank and iteration, so
    a resumed run goes on as it was. A last batch of one image is mixed with
    itself.

    Args:
        source (str | list[str]): The backbone's stages. Defaults to
            'backbone'.
        alpha (float): :math:`a` above. Defaults to 0.2.
        key (str): Where this stands in the user's config, for the errors.

    Raises:
        ConfigError: A value is out of range, the backbone has one stage
            only, a batch has one image only, or the student has no head with
            class scores.
    """

    def __init__(self,
                 source: str | Sequence[str] = 'backbone',
                 alpha: float = 0.2,
                 key: str = 'teacher') -> None:
        super().__init__(key)
        if (not isinstance(alpha, (int, float)) or isinstance(alpha, bool)
                or not 0 < alpha < 1e6):
            raise ConfigError(f'{key}.alpha = {alpha!r}: of the distribution '
                              'Beta(alpha, alpha); a number above 0 is needed')
        self.source, self.alpha = source, alpha
        self._stages = as_list(source, f'{key}.source')
        self.student_sources = [*self._stages, 'features', 'logits']

    def request(self, source: str, key: str, student: nn.Module) -> None:
        if source not in SOURCES:
            raise ConfigError(f'{key} = {source!r}: MixTeacher gives '
                              f'{", ".join(SOURCES)}')
        self._task = host_of(student).pixel_loss(student, self.key)

    def fit(self, context: BatchContext, resources: ExitStack) -> None:
        if context.batch_size == 1:
            raise ConfigError(
                'train_dataloader.batch_size = 1: MixTeacher mixes the images'
                ' of a batch; two or more on each device are needed')
        stages = gather(self._stages, context.levels)
        if len(stages) < 2:
            inside = dict(context.student.named_modules()).get(
                self._stages[0], nn.Module())
            names = [f'{self._stages[0]}.{name}'
                     for name, _ in inside.named_children()][-2:]
            raise ConfigError(
                f'{self.key}.source = {self.source!r}: gives one level; '
                'two stages or more are needed; name modules inside it, such '
                f"as teacher=dict(type='MixTeacher', source={names})")
        self._scores = context.host.place(
            context.student, 'logits', self.key).reading
        features, = context.levels['features']
        logits, = context.levels['logits']
        self._network = MixNetwork(
            [x.shape[1] for x in stages[:-1]], features.shape[1],
            logits.shape[1], self._task.norm_cfg or dict(type='BN'))
        self.module = self._network.to(context.inputs.device)

    def place(self, source: str) -> Place | None:
        reading: Reading | None = None
        if not source.endswith('.features'):
            reading = self._scores
        return Place([], reading=reading)

    def teach(self, context: BatchContext,
              sources: Iterable[str] | None) -> TeacherOutput:
        share, order = self._draw(context)
        ignore_index = self._task.ignore_index

        def mix(x: torch.Tensor) -> torch.Tensor:
            return share * x + (1 - share) * x[order]

        assert context.run_student is not None
        plain = self._view(context.levels)
        mixed = self._view(context.run_student(
            mix(context.inputs), self.student_sources))
        levels = {}
        for name in ('features', 'branches', 'logits'):
            levels[f'interpolated.{name}'] = [mix(x) for x in plain[name]]
            levels[f'mixed.{name}'] = mixed[name]
        for name in ('interpolated', 'mixed'):
            levels[f'{name}.aggregated'] = [
                self._network.aggregated(levels[f'{name}.features'])]

        maps: list[Any] = [context.host.class_map(sample)
                           for sample in context.samples]
        label = torch.stack(maps)
        ignored = (label == ignore_index) | (label[order] == ignore_index)
        first, second = (x.masked_fill(ignored, ignore_index)
                         for x in (label, label[order]))

        both = [(first, share), (second, 1 - share)]
        value = self._task.value
        losses: dict[str, Any] = dict(
            loss_branches=sum(
                value(x, [(label, 1.)]) for x in plain['branches']),
            loss_mixed=sum(
                value(x, both) for x in mixed['branches'] + mixed['logits']),
            loss_aggregated=sum(
                value(levels[f'{name}.aggregated'][0], both)
                for name in ('interpolated', 'mixed')))
        return TeacherOutput(levels, losses, first)

    def describe(self) -> str:
        count = sum(p.numel() for p in self._network.parameters())
        return (f'the student on mixed images, Beta({self.alpha:g}, '
                f'{self.alpha:g}), and {count:,} parameters of branches and '
                'self-teacher, trained along; not in the saved student')

    def _view(self, seen: dict[str, list]) -> dict[str, list]:
        aligned, scores = self._network(gather(self._stages, seen)[:-1],
                                      seen['features'][0])
        return dict(features=aligned, branches=scores, logits=seen['logits'])

    def _draw(self, context: BatchContext) -> tuple[float, torch.Tensor]:
        """lambda, and for every image another one: a random cycle."""
        rng = np.random.default_rng(
            [context.seed, get_rank(), context.iteration])
        share = float(rng.beta(self.alpha, self.alpha))
        cycle = rng.permutation(len(context.inputs))
        order = np.empty_like(cycle)
        order[cycle] = np.roll(cycle, 1)
        return share, torch.from_numpy(order).to(context.inputs.device)
