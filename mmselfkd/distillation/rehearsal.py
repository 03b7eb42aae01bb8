"""One forward pass before training, which shows what fits and what does not.

Heads differ between training and inference, and detectors need boxes, so a
real batch passes through a copy of the student in ``mode='loss'``, as in
training. What it shows without touching the student: which taps fire and how
often, channels and sizes, which tensors are changed in place behind a tap,
and that each teacher and each loss can be computed.
"""
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import randomness
from ..errors import ConfigError, blamed_on
from ..hosts import Place, host_of
from ..sources import STUDENT, Levels, Source, gather
from ..taps import Tap
from ..teachers import BatchContext, ModelTeacher, Teacher, TeacherOutput
from .auto_weight import check_reached
from .level_matching import FEATURES, LevelMatcher
from .loss_config import AUTO, LossConfig
from .loss_term import LossTerm
from .recording import (
    all_levels,
    label_for,
    positives_of,
    record,
    run_tapped,
    student_paths,
    tap_student,
    total_loss,
)
from .unlabelled import run_unlabelled, unlabelled_value, why_labelled_only


@dataclass
class Rehearsal:
    """What a rehearsal shows.

    Attributes:
        terms (list[LossTerm]): One for each loss in use.
        rows (list[tuple]): A row for each of them for the table at the start.
        changed (list[str]): The student's sources whose tensors are changed
            in place behind the tap.
        own_losses (list[str]): Keys of what trains the teachers themselves.
        values (dict[str, float]): The weighted value of each loss whose
            weight is known.
        task (float): The sum of the student's own losses.
    """
    terms: list[LossTerm] = field(default_factory=list)
    rows: list[tuple] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    own_losses: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    task: float = 0.


@torch.no_grad()
def rehearse(student: nn.Module, twin: nn.Module,
             configs: Sequence[LossConfig], teachers: dict[str, Teacher],
             inputs: torch.Tensor, samples: Any, resources: ExitStack,
             unlabelled: tuple[str, torch.Tensor, Any] | None = None,
             **of_the_run: Any) -> Rehearsal:
    """Fit teachers and losses to the levels that they will see.

    The student and the random generators stay as they are.

    Args:
        student (nn.Module): The unwrapped model.
        twin (nn.Module): A copy of it, which runs.
        configs (list[LossConfig]): The losses in use.
        teachers (dict): Name -> teacher.
        inputs (Tensor): A preprocessed batch (N, C, H, W).
        samples (list): Its data samples.
        resources (ExitStack): Takes what is attached to the teachers off.
        unlabelled (tuple, optional): Config key, inputs and samples of two
            images without labels.
        of_the_run: ``seed``, ``batch_size``, ``recorded`` and ``classes`` of
            the context.

    Raises:
        ConfigError: A tap, a level, a shape or a class that does not fit.
    """
    result = Rehearsal()
    if not configs:
        return result
    for config in configs:
        for owner, path in config.sources:
            if owner != STUDENT:
                teachers[owner].request(
                    path, f'{config.key}.source', student)
    with randomness.preserved(), ExitStack() as temporary:
        taps = tap_student(twin, configs, teachers, temporary)
        levels, result.task = _run_twin(
            twin, taps, inputs, host_of(student).snapshot(samples),
            [config for config in configs if config.share is not None],
            teachers)
        context = BatchContext(
            student, inputs, samples, levels,
            lambda other, sources: run_tapped(
                twin, taps, sources, other, samples), **of_the_run)
        result.changed = [path for path, tap in taps.items() if tap.changed]
        outputs = {}
        for name, teacher in teachers.items():
            outputs[name] = _first_output(teacher, context, resources)
            result.own_losses += [
                f'{name}.{key}' for key in outputs[name].losses]
        found = all_levels(context, outputs)
        for config in configs:
            if config.loss.needs_images and context.batch_size == 1:
                raise ConfigError(
                    'train_dataloader.batch_size = 1: '
                    f'{config.key} compares images of a batch with each '
                    f'other; use a batch of at least 2, or {config.key} = '
                    'None')
            loss = config.loss
            if ((loss.needs_objects or loss.needs_regions)
                    and not context.layout.has_boxes):
                raise ConfigError(
                    f'{config.key}: {config.loss_name} looks at the boxes of '
                    f'objects (gt_instances.bboxes), and the data of this '
                    f'{type(student).__name__} have none; distil a detector, '
                    "or use a loss on features, type='MGDLoss' with "
                    "source='features'")
            places = _places(config.student_sources, taps, teachers)
            _fill_in(config, student, places[0])
            ours = gather(config.student_sources, found)
            theirs = gather(config.teacher_sources, found)
            matcher = LevelMatcher(
                config, ours, theirs, places,
                _places(config.teacher_sources, taps, teachers),
                context.host.has_fixed_strides(student))
            pairs = matcher(ours, theirs, context.layout)
            term = LossTerm(config, matcher, pairs, inputs,
                            _teacher_part(config, teachers))
            term.check_cost(pairs, (context.batch_size or len(inputs))
                            / len(inputs))
            term.level_losses.eval()  # what remembers batches leaves this out
            with blamed_on(config.key):
                value = term.value(pairs, label_for(term, context, outputs),
                                   inputs, context.layout,
                                   positives_of(found))
            term.level_losses.train()
            if config.share is None:
                result.values[term.name] = config.loss_weight * float(value)
            result.terms.append(term)
            result.rows.append(_row(term, ours, theirs))
        if unlabelled is not None:
            key, inputs, samples = unlabelled
            _rehearse_unlabelled(key, result.terms, teachers, taps, twin,
                                 BatchContext(student, inputs, samples,
                                              is_labelled=False,
                                              **of_the_run))
    return result


def _rehearse_unlabelled(key: str, terms: Sequence[LossTerm],
                         teachers: dict[str, Teacher], taps: dict[str, Tap],
                         twin: nn.Module, context: BatchContext) -> None:
    """Every loss that can, once on two images without labels.

    Raises:
        ConfigError: None can, or one fails.
    """
    reasons = {term: why_labelled_only(term, teachers) for term in terms}
    able = [term for term in terms if reasons[term] is None]
    if not able:
        raise ConfigError(
            f'{key}: no loss can use images without labels: ' + '; '.join(
                f'{term.key} {reason}' for term, reason in reasons.items()))
    with blamed_on(f'{key}.dataloader'):
        found = run_unlabelled(able, teachers, taps, twin, context)
        for term in able:
            value, _ = unlabelled_value(term, context, found)
            if not bool(torch.isfinite(value)):
                raise ValueError(f'{term.key} is {float(value)} on two images '
                                 'without labels')


def _run_twin(twin: nn.Module, taps: dict[str, Tap], inputs: torch.Tensor,
              samples: Any, auto: Sequence[LossConfig],
              teachers: dict[str, Teacher]) -> tuple[dict[str, Levels], float]:
    """The levels of the copy, and the sum of its losses.

    Where weights are ``auto``, with a graph, to see whether they can be.
    """
    losses: dict[str, Any] = {}
    for tap in taps.values():
        tap.keeps_edges = bool(auto)
    try:
        with torch.set_grad_enabled(bool(auto)):
            record(taps, list(taps), lambda: losses.update(
                twin(inputs, samples, mode='loss')))
    except Exception as error:  # the student's own, without distillation
        raise ConfigError(
            f'model: the student itself, a {type(twin).__name__}, fails in '
            "its own forward pass (mode='loss') on a batch of two training "
            f'samples: {type(error).__name__}: {error}') from error
    task = sum(
        abs(float(part.mean())) for name, value in losses.items()
        if 'loss' in name for part in (
            value if isinstance(value, (list, tuple)) else [value]))
    levels = {path: _detached(tap.take(inputs.shape))
              for path, tap in taps.items()}
    edges = {path: tap.take_edges() for path, tap in taps.items()}
    for config in auto:
        with torch.enable_grad():
            check_reached(config, total_loss(losses), [
                edge for path in student_paths(config, teachers)
                for edge in edges[path]])
    return levels, task


def _detached(levels: Levels) -> Levels:
    """The levels without a graph; what is one tensor twice stays so.

    A head with two branches has the same regions for both.
    """
    once = {id(level): level.detach() for level in levels}
    return [once[id(level)] for level in levels]


def _first_output(teacher: Teacher, context: BatchContext,
                  resources: ExitStack) -> TeacherOutput:
    try:
        teacher.fit(context, resources)
        output = teacher.rehearse(context)
        output.join()
        _check_finite(teacher, output)
        return output
    except ConfigError:
        raise
    except Exception as error:  # its model may fail on anything
        raise ConfigError(
            f'{teacher.key}: cannot run on the batch of the student: '
            f'{type(error).__name__}: {error}') from error


def _check_finite(teacher: Teacher, output: TeacherOutput) -> None:
    """A pretrained teacher gives numbers."""
    if not getattr(teacher, 'is_pretrained', False):
        return
    for source, found in output.levels.items():
        if not all(bool(level.isfinite().all()) for level in found):
            raise ConfigError(
                f'{teacher.key}: what the teacher gives at {source!r} is '
                'not finite on two training samples; look at its '
                "checkpoint ('random' makes some networks overflow), its "
                'precision and its normalisation')


def _fill_in(config: LossConfig, student: nn.Module, place: Place) -> None:
    """What a loss leaves to the head that it looks at, or the main one."""
    host = host_of(student)
    config.loss.void_label = (
        host.ignore_index(student) if place.ignore_index is None
        else place.ignore_index)
    if getattr(config.loss, 'ignore_index', None) == 'head':
        config.loss.ignore_index = config.loss.void_label
    if config.loss.num_classes is None:
        config.loss.num_classes = host.num_classes(student) if (
            place.class_map is None or place.reading is None
        ) else place.reading.size


def _teacher_part(config: LossConfig, teachers: dict[str, Teacher]
                  ) -> Callable[..., Any] | None:
    """The part of the teacher that the loss passes features through, if any.

    Raises:
        ConfigError: The teacher has none, or the loss looks elsewhere.
    """
    if not (config.loss.needs_classifier or config.loss.needs_head):
        return None
    source, = config.teacher_sources[:1]
    teacher = teachers[source.owner]
    model = teacher.model if isinstance(teacher, ModelTeacher) else None
    where = f'{config.key}.source = {source.path!r}'
    if config.loss.needs_head:
        found = model and host_of(model).head_end(
            model, source.path.partition('[')[0], where)
        if found is None or len(config.teacher_sources) > 1:
            raise ConfigError(
                f'{where}: {config.loss_name} passes features through the '
                f"rest of a detector's head; write source='branches.-1'")
        return found
    found = model and host_of(model).classifier(model)
    if found is None:
        raise ConfigError(
            f'{config.key}: {config.loss_name} passes features through the '
            f'classifier of {source.owner}, which has none that is known; '
            "use type='FitNetsLoss' with source='features', or a segmentor "
            'whose head has a conv_seg')
    if [path for _, path in config.teacher_sources] != ['features']:
        raise ConfigError(
            f"{where}: {config.loss_name} needs what enters the teacher's "
            "classifier; say teacher='features'")
    return found


def _places(sources: Iterable[Source], taps: dict[str, Tap],
            teachers: dict[str, Teacher]) -> list[Place]:
    """Where the levels come from."""
    return [taps[path].place if owner == STUDENT else
            teachers[owner].place(path) or FEATURES
            for owner, path in sources]


def _row(term: LossTerm, student: Levels, teacher: Levels) -> tuple:
    """What the first table says of one loss."""

    def show(sources: Iterable[Source], levels: Levels) -> str:
        shapes = ' '.join('x'.join(map(str, x.shape[1:])) for x in levels)
        return f'{", ".join(source.path for source in sources)}: {shapes}'

    adapters = [f'{m.in_channels}->{m.out_channels}' for m in term.adapters
                if isinstance(m, nn.Conv2d)]
    config = term.config
    weight = f'{config.loss_weight:g}' if config.share is None else (
        f'{AUTO}, share {config.share:g}')
    schedule = type(config.schedule).__name__ if config.schedule else ''
    return (f'distill.{term.name}', config.loss_name,
            show(config.student_sources, student),
            show(config.teacher_sources, teacher),
            ' '.join(adapters) or '-', f'{weight} {schedule}')
