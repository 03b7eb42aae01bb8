"""Before the first iteration: the rehearsal, and what is trained along."""
import copy
import functools
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from .. import randomness
from ..areas import Areas
from ..errors import ConfigError, nearest
from ..heads import is_detector, scores_of
from ..sources import gather
from ..taps import Tap
from ..teachers.frozen import FrozenTeacher
from ..teachers.teacher import Lesson, Step, Teacher
from ..terms import Term
from .state import ENTRY


@dataclass
class Rehearsal:
    """What a rehearsal shows.

    Attributes:
        rows (list[tuple]): A row per term for the table at the start.
        changed (list[str]): The student's sources whose tensors are changed
            in place behind the tap.
        own_losses (list[str]): Keys of what trains the teachers themselves.
    """
    rows: list[tuple] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    own_losses: list[str] = field(default_factory=list)


@torch.no_grad()
def rehearse(runner, student: nn.Module, terms: list[Term],
             teachers: dict[str, Teacher]) -> Rehearsal:
    """One forward pass of a copy of the student and of each teacher.

    Fits teachers and terms to the levels that they will see and lets each
    loss compute once. The student and the random generators stay as they
    are.

    Args:
        runner (Runner): Its training data give the two samples.
        student (nn.Module): The unwrapped model.
        terms (list[Term]): The terms in use.
        teachers (dict): Name -> teacher.

    Raises:
        ConfigError: A tap, a level, a shape or a class that does not fit.
    """
    result = Rehearsal()
    if not terms:
        return result
    for term in terms:
        for owner, source in term.student_sources + term.teacher_sources:
            if owner:
                teachers[owner].request(
                    source, f'{term.key}.source', student)
    with randomness.preserved():
        twin = copy.deepcopy(student).train()
        randomness.tame(twin)
        inputs, samples = _two_samples(runner, twin)
        taps = tap_student(twin, terms, teachers)
        step = Step(
            student, inputs, samples,
            watch(taps, taps, lambda: twin(inputs, samples, mode='loss')),
            functools.partial(run_again, twin, taps, samples),
            seed=runner.seed, batch_size=runner.train_dataloader.batch_size)
        result.changed = [s for s, tap in taps.items() if tap.changed]
        lessons = {}
        for name, teacher in teachers.items():
            lessons[name] = _first_lesson(teacher, step)
            result.own_losses += [
                f'{name}.{key}' for key in lessons[name].losses]
        levels = all_levels(step, lessons)
        for term in terms:
            ours = gather(term.student_sources, levels)
            theirs = gather(term.teacher_sources, levels)
            seen = [taps[s].place for o, s in term.student_sources if not o]
            term.fit(
                ours, theirs, inputs,
                scores=scores_of(twin, seen[0]) if seen else None,
                is_map=all(place.is_map for place in seen),
                same_strides=is_detector(student))
            try:
                term.value(term.aligned(ours, theirs, step.areas),
                           label_for(term, step.areas, lessons), inputs,
                           step.areas)
            except (ValueError, TypeError) as error:
                raise ConfigError(f'{term.key}: {error}') from error
            result.rows.append(_row(term, ours, theirs))
    return result


def _first_lesson(teacher: Teacher, step: Step) -> Lesson:
    try:
        teacher.fit(step)
        lesson = teacher.rehearse(step)
        lesson.join()
        return lesson
    except ConfigError:
        raise
    except Exception as error:  # its model may fail on anything
        raise ConfigError(
            f'{teacher.key}: cannot run on the batch of the student: '
            f'{type(error).__name__}: {error}') from error


def watch(taps: dict[str, Tap], sources: Iterable[str],
          forward: Callable[[], Any]) -> dict[str, list[torch.Tensor]]:
    """The levels of ``sources`` in one forward pass."""
    for source in sources:
        taps[source].open()
    forward()
    for source in sources:
        taps[source].close()
    return {source: taps[source].take() for source in sources}


def run_again(student: nn.Module, taps: dict[str, Tap], samples: Any,
              inputs: torch.Tensor, sources: Iterable[str]
              ) -> dict[str, list[torch.Tensor]]:
    """The student's levels for other inputs, with gradient."""
    if samples is not None:  # no ground truth
        samples = [type(s)(metainfo=s.metainfo) for s in samples]
    return watch(taps, sources,
                 lambda: student(inputs, samples, mode='tensor'))


def all_levels(step: Step, lessons: dict[str, Lesson]
               ) -> dict[tuple[str, str], list[torch.Tensor]]:
    """The levels of student and teachers by owner and source."""
    levels = {('', source): seen for source, seen in step.seen.items()}
    for name, lesson in lessons.items():
        for source, taught in lesson.levels.items():
            levels[name, source] = taught
    return levels


def label_for(term: Term, areas: Areas,
              lessons: dict[str, Lesson]) -> torch.Tensor | None:
    """The class maps that go with the levels of ``term``, if it asks."""
    if not getattr(term.loss, 'needs_label', False) or not term.is_map:
        return None
    for owner in term.teachers:
        if lessons[owner].label is not None:
            return lessons[owner].label
    return areas.label()


def inherited(student: nn.Module, teacher: Teacher, module: str,
              key: str) -> tuple[list[str], list[str]]:
    """The weights of ``module`` that teacher and student have in common.

    Returns:
        tuple: Names of the weights of equal name and shape, and names of the
        student's others.

    Raises:
        ConfigError: One of them has no such module, nothing agrees, or the
            teacher is no pretrained model.
    """
    where = f'{key} = {module!r}'
    if not isinstance(teacher, FrozenTeacher):
        raise ConfigError(f'{where}: a pretrained teacher (config=..., '
                          'checkpoint=...) is needed to inherit from')
    for name, model in (('student', student), ('teacher', teacher.model)):
        names = dict(model.named_modules())
        if module not in names:
            raise ConfigError(f'{where}: the {name} has no such module' +
                              nearest(module, names))
    own, state = student.state_dict(), teacher.model.state_dict()
    names = [name for name in own if name.startswith(f'{module}.')]
    taken = [name for name in names
             if name in state and state[name].shape == own[name].shape]
    if not any(own[name].dim() for name in taken):  # counters do not count
        raise ConfigError(f'{where}: no weight has the same name and shape in '
                          'student and teacher')
    return taken, [name for name in names if name not in taken]


def attach_modules(runner, student: nn.Module, terms: list[Term],
                   teachers: dict[str, Teacher], hook: Hook) -> None:
    """Put what is trained along into student, wrapper and optimizer.

    Args:
        runner (Runner): Gets a new wrapper, optimizer and schedulers, built
            from its config; nothing if there is no module.
        student (nn.Module): The unwrapped model.
        terms (list[Term]): The terms in use, with their adapters.
        teachers (dict): Name -> teacher, some with a module.
        hook (Hook): Must stand before every EMAHook.

    Raises:
        ConfigError: The optimizer cannot be built anew or leaves a parameter
            out, or EMAHook has copied the model already.
    """
    modules = nn.ModuleDict({
        term.name: term.adapters
        for term in terms if list(term.adapters.parameters())
    })
    modules.update({
        name: teacher.module
        for name, teacher in teachers.items() if teacher.module is not None
    })
    if not modules:
        return
    if runner.cfg.get('optim_wrapper') is None:
        raise ConfigError(
            'optim_wrapper: what is trained along needs an optimizer that is '
            'built anew; make the runner by Runner.from_cfg(cfg)')
    if any(isinstance(other, EMAHook)
           for other in runner.hooks[:runner.hooks.index(hook)]):
        raise ConfigError(f'{type(hook).__name__}.priority: must come '
                          'before EMAHook, which copies the model')
    student.add_module(ENTRY, modules)
    if is_model_wrapper(runner.model):
        runner.model = student
        gc.collect()  # the old wrapper's gradient hooks go with it
        runner.model = runner.wrap_model(
            copy.deepcopy(runner.cfg.get('model_wrapper_cfg')), student)
    runner.optim_wrapper = runner.build_optim_wrapper(
        copy.deepcopy(runner.cfg.optim_wrapper))
    runner.param_schedulers = copy.deepcopy(runner.cfg.get('param_scheduler'))
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(
            runner.param_schedulers)
    optimized = {
        id(p) for wrapper in optim_wrappers(runner)
        for group in wrapper.optimizer.param_groups for p in group['params']
    }
    for name, parameter in modules.named_parameters():
        if id(parameter) not in optimized:
            raise ConfigError(
                'optim_wrapper.constructor = '
                f'{runner.cfg.optim_wrapper.get("constructor")!r}: '
                f'leaves {ENTRY}.{name} without an optimizer')


def tap_student(model: nn.Module, terms: list[Term],
                teachers: dict[str, Teacher]) -> dict[str, Tap]:
    """A tap for whatever terms and teachers look at, by the source."""
    wanted = [(source, f'{term.key}.source') for term in terms
              for owner, source in term.student_sources if not owner]
    wanted += [(source, f'{teacher.key}.source')
               for teacher in teachers.values()
               for source in teacher.student_sources]
    taps: dict[str, Tap] = {}
    for source, key in wanted:
        if source not in taps:
            taps[source] = Tap(model, source, key)
    return taps


def optim_wrappers(runner):
    """The optimizer wrappers of the run, one or several."""
    wrapper = runner.optim_wrapper
    return iter(wrapper.values() if isinstance(wrapper, OptimWrapperDict)
                else [wrapper])


def _two_samples(runner, student: nn.Module) -> tuple[torch.Tensor, Any]:
    """A batch of two training samples, preprocessed for the student."""
    runner.message_hub.update_info('iter', runner.iter)  # YOLOX asks for it
    loader = runner.train_dataloader
    items = [loader.dataset[i % len(loader.dataset)] for i in range(2)]
    data = student.data_preprocessor(loader.collate_fn(items), True)
    if not isinstance(data, dict) or 'inputs' not in data:
        raise ConfigError(
            'model.data_preprocessor: gives a '
            f'{type(data).__name__}; dict(inputs=..., data_samples=...), as '
            'in mmseg and mmdet, is needed')
    return data['inputs'], data.get('data_samples')


def _row(term: Term, student: list[torch.Tensor],
         teacher: list[torch.Tensor]) -> tuple:
    """What the first table says of one term."""

    def show(sources, levels):
        shapes = ' '.join('x'.join(map(str, x.shape[1:])) for x in levels)
        return f'{", ".join(source for _, source in sources)}: {shapes}'

    adapters = [f'{m.in_channels}->{m.out_channels}' for m in term.adapters
                if isinstance(m, nn.Conv2d)]
    schedule = type(term.schedule).__name__ if term.schedule else ''
    return (f'distill.{term.name}', type(term.loss).__name__,
            show(term.student_sources, student),
            show(term.teacher_sources, teacher),
            ' '.join(adapters) or '-', f'{term.loss_weight:g} {schedule}')
