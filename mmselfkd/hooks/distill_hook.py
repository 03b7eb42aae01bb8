"""The mechanism: one hook that makes a stock run a distillation run."""
import functools
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import nn

from ..adapters import resize_like
from ..errors import ConfigError, nearest
from ..registry import TEACHERS, build_part, register_hook
from ..schedules import factor_at
from ..sources import gather
from ..taps import Tap
from ..teachers.teacher import Lesson, Step, Teacher
from ..terms import Term
from .adversary import Adversary
from .plan import joined, make_plan
from .preparation import (
    all_levels,
    attach_modules,
    inherited,
    label_for,
    optim_wrappers,
    rehearse,
    run_again,
    tap_student,
)
from .report import Monitor, class_agreement, linear_cka, render
from .state import ENTRY, StateHook, unwrapped

AGREEMENT_INTERVAL = 10  # iterations between two agreement measurements


@register_hook
class DistillHook(Hook):
    """Adds distillation losses to the losses of an unchanged student.

    Before training it rehearses one forward pass of a copy of the student
    and of each teacher on two training samples; from that it knows which
    taps fire, the channels, and what the losses need. In training it taps
    the student's own forward pass in ``mode='loss'``, runs the teacher on
    the same batch and returns the loss dict with an entry
    ``distill.<key>`` per loss, and one per loss that trains the teacher
    itself, ``distill.<teacher>.<key>``. After training, or an exception, the
    model is as it was. Of several such hooks the first does the work of all;
    equal teachers are one.

    Args:
        teacher (dict): One teacher (``config`` and ``checkpoint`` of a
            ``FrozenTeacher``, or ``type`` and the arguments of another one),
            or a dict of named ones. Some method hooks have one of their own.
        losses (dict[str, dict]): Loss by key. Each has ``type`` and the
            arguments of the loss, ``source``, ``loss_weight`` (1.0) and
            optionally ``schedule`` and, with boxes in the data,
            ``foreground``, the share of the objects in the weight of an
            image (0.5). In a method hook they change the
            method's own losses key by key, ``None`` switching one off, or
            add further ones.
        task_schedule (dict, optional): A schedule whose factor scales the
            student's own losses.
        inherit (str | list[str], optional): Modules, such as ``['neck',
            'decode_head']``, that the student takes from its pretrained
            teacher at the start, weight by weight where names and shapes
            agree. Not on resume. With several teachers ``'name:neck'``.

    Raises:
        ConfigError: Before the first iteration, for whatever in the config
            cannot work.
    """

    priority = 'HIGH'  # modules are attached before EMAHook copies the model
    preset: dict[str, dict] = {}
    preset_teacher: dict | None = None
    preset_task_schedule: dict | None = None

    def __init__(self,
                 teacher: dict | None = None,
                 losses: dict[str, dict | None] | None = None,
                 task_schedule: dict | None = None,
                 inherit: str | list[str] | None = None,
                 **unknown) -> None:
        name = type(self).__name__
        for argument, value in unknown.items():
            raise ConfigError(
                f'{name}.{argument} = {value!r}: no such argument' +
                nearest(argument, ('teacher', 'losses', 'task_schedule',
                                   'inherit')))
        self.plan = make_plan(
            name, self.preset_teacher if teacher is None else teacher,
            self.preset, losses, self.preset_task_schedule
            if task_schedule is None else task_schedule, inherit)
        self.terms = self.plan.terms  # in a run those of all hooks
        self.task_schedule = self.plan.task_schedule
        self.teachers: dict[str, Teacher] = {}
        self._own_losses: list[str] = []
        self.adversaries: dict[str, Adversary] = {}
        self._runner: Any = None
        self._state: StateHook | None = None
        self._joined: list[DistillHook] = []  # whose work this one does
        self._resumed = False
        self._student: nn.Module | None = None
        self._taps: dict[str, Tap] = {}
        self._clones: list[str] = []
        self._handles: list[Any] = []
        self._guards: list[tuple[Any, str]] = []
        self._weights: dict[str, float] = {}
        self._task_factor = 1.0
        self._measure_agreement = False
        self._step: Step | None = None
        self._lessons: dict[str, Lesson] = {}

    # -- before training ----------------------------------------------------

    def before_run(self, runner) -> None:
        # val and test call this stage too; there the train loop is a config
        # or has run to its end
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop) or loop.iter >= loop.max_iters:
            return
        try:
            self._prepare(runner)
        except BaseException:
            self._release()
            raise
        later = runner.hooks[runner.hooks.index(self) + 1:]
        for owner, name in (*((hook, 'before_run') for hook in later),
                            (runner, '_init_model_weights'),
                            (runner, 'load_or_resume'),
                            (runner, '_maybe_compile'), (loop, 'run')):
            self._guard(owner, name, is_last=name == 'run')

    def _prepare(self, runner) -> None:
        key = type(self).__name__
        if hasattr(runner, 'strategy'):
            raise ConfigError(f'runner_type = {type(runner).__name__!r}: '
                              f"{key} works with mmengine's Runner only")
        hooks = [h for h in runner.hooks if isinstance(h, DistillHook)]
        self._runner, self._joined = runner, hooks[1:]
        for hook in self._joined:
            runner.hooks.remove(hook)
        self._student = unwrapped(runner.model)
        for hook in hooks:
            hook.plan.resolve(*_length(runner))
        plan = joined([hook.plan for hook in hooks])
        self.terms, self.task_schedule = plan.terms, plan.task_schedule
        self._used = [term for term in self.terms if term.loss_weight > 0]
        names = {name for term in self._used for name in term.teachers}
        names.update(name for _, name, _ in plan.inherit)
        self.teachers = {
            name: build_part(
                dict(type='FrozenTeacher', key=where) | dict(cfg), TEACHERS,
                where)
            for name, (where, cfg) in plan.teachers.items() if name in names
        }
        rehearsal = rehearse(runner, self._student, self._used, self.teachers)
        self._clones = rehearsal.changed
        self._own_losses = rehearsal.own_losses
        self.adversaries = {
            term.name: Adversary(term)
            for term in self._used if term.is_adversarial
        }
        self._inherited = [
            (name, *inherited(self._student, self.teachers[name], module,
                              where))
            for where, name, module in plan.inherit
        ]
        attach_modules(runner, self._student, self._used, self.teachers, self)
        self._state = StateHook(self.adversaries, self.teachers)
        runner.register_hook(self._state)
        self._monitor = Monitor(
            [term.name for term in self._used] + self._own_losses)
        self._announce(runner, rehearsal.rows)

    def _announce(self, runner, rows: list[tuple]) -> None:
        if not self._used:
            runner.logger.warning(
                f'{type(self).__name__}: every loss_weight is 0, nothing is '
                'distilled')
            return
        runner.logger.info(render(
            'Distillation', ('logged as', 'loss', 'student taps',
                             'teacher taps', 'adapters', 'weight'), rows))
        extra = _count(t.adapters for t in self._used)
        own = _count(t.module for t in self.teachers.values() if t.module)
        judges = _count(a.losses for a in self.adversaries.values())
        for name, teacher in self.teachers.items():
            runner.logger.info(f'{name}: {teacher.describe()}')
            classes = getattr(runner.train_dataloader.dataset, 'metainfo',
                              {}).get('classes')
            if teacher.classes and classes and tuple(
                    teacher.classes) != tuple(classes):
                runner.logger.warning(
                    f'{teacher.key}: was trained on the classes '
                    f'{tuple(teacher.classes)}, the data has '
                    f'{tuple(classes)}')
        runner.logger.info(
            f'extra trained parameters: {extra:,} in adapters, {own:,} in '
            f'teachers, {judges:,} in discriminators; none of them in the '
            'saved student')

    # -- during training ----------------------------------------------------

    def before_train(self, runner) -> None:
        """Tap the student, now that EMAHook has its copy."""
        if not self._resumed:  # as with --resume where nothing was saved yet
            self._take_over(runner)
        for teacher in self.teachers.values():
            teacher.start(self._student)
        self._taps = tap_student(self._student, self._used, self.teachers)
        for source in self._clones:
            self._taps[source].clone = True
        self._handles = [
            self._student.register_forward_pre_hook(
                self._before_forward, with_kwargs=True),
            self._student.register_forward_hook(
                self._after_forward, with_kwargs=True)
        ]

    def _take_over(self, runner) -> None:
        """What ``inherit`` names, from the teachers into the student."""
        for name, taken, left in self._inherited:
            state = self.teachers[name].model.state_dict()
            own = self._student.state_dict()
            for key in taken:
                own[key].copy_(state[key])
            runner.logger.info(
                f'inherited from {name}: {len(taken)} weights '
                f'({", ".join(taken[:3])}, ...); {len(left)} of another shape '
                'or name keep their own start')

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        iteration = runner.iter
        epoch = iteration // len(runner.train_dataloader)
        self._weights = {
            term.name: term.weight_at(iteration, epoch) if all(
                self.teachers[name].is_ready for name in term.teachers) else 0.
            for term in self._used
        }
        self._task_factor = factor_at(self.task_schedule, iteration, epoch)
        self._measure_agreement = iteration % AGREEMENT_INTERVAL == 0

    def _before_forward(self, student, args, kwargs) -> None:
        if kwargs.get('mode') != 'loss' or not student.training:
            return
        inputs, samples = _batch(args, kwargs)
        self._step = Step(
            student, inputs, samples, {},
            functools.partial(run_again, student, self._taps, samples),
            self._runner.iter, self._runner.seed)
        # before there are activations of the student: a lower peak of memory
        self._lessons = self._ask(self._step, early=True)
        for source in self._wanted_of(''):
            self._taps[source].open()

    def _after_forward(self, student, args, kwargs, losses) -> Any:
        if kwargs.get('mode') != 'loss' or not student.training:
            return None
        step, lessons = self._step, self._lessons
        self._step, self._lessons = None, {}
        for source in self._wanted_of(''):
            self._taps[source].close()
            step.seen[source] = self._taps[source].take()
        losses = dict(losses)
        if self._task_factor != 1:
            for name in losses:
                if 'loss' in name:
                    losses[name] = _scaled(losses[name], self._task_factor)
        lessons |= self._ask(step, early=False)
        for lesson in lessons.values():
            lesson.join()
        losses.update(self._distill(step, lessons))
        return losses

    def _ask(self, step: Step, early: bool) -> dict[str, Lesson]:
        """The lessons of those that need nothing of the student's forward
        pass (early), or of the others."""
        lessons = {}
        for name, teacher in self.teachers.items():
            wanted = self._wanted_of(name)
            if early != bool(teacher.student_sources) and (
                    wanted or teacher.module is not None):
                lessons[name] = teacher.teach(step, wanted)
        return lessons

    def _distill(self, step: Step, lessons: dict[str, Lesson]
                 ) -> dict[str, torch.Tensor]:
        """The entries for the loss dict of this forward pass."""
        levels = all_levels(step, lessons)
        losses, compared = {}, {}
        for term in self._used:
            weight = self._weights[term.name]
            if weight == 0:
                losses[f'distill.{term.name}'] = term.zero(step.inputs.device)
                continue
            ours = gather(term.student_sources, levels)
            self._monitor.idle(
                term.name, [level.requires_grad for level in ours])
            pairs = term.aligned(
                ours, gather(term.teacher_sources, levels), step.areas)
            label = label_for(term, step.areas, lessons)
            losses[f'distill.{term.name}'] = weight * term.value(
                pairs, label, step.inputs, step.areas)
            if pairs[0][0].numel():  # there may be no RoI
                compared[term] = pairs[0]
            if term.is_adversarial:
                self.adversaries[term.name].see(pairs, step.inputs)
        for name, lesson in lessons.items():
            for key, value in lesson.losses.items():
                losses[f'distill.{name}.{key}'] = value
        if compared and self._measure_agreement:
            losses['distill/agreement'] = _agreement(compared)
        return losses

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        group = next(optim_wrappers(runner)).optimizer.param_groups[0]
        initial = group.get('initial_lr') or group['lr'] or 1.0
        for adversary in self.adversaries.values():
            adversary.step(group['lr'] / initial)
        for teacher in self.teachers.values():
            teacher.follow(self._student, runner.iter + 1,
                           len(runner.train_dataloader))
        self._monitor.update(
            outputs or {}, self._weights | dict.fromkeys(self._own_losses, 1.),
            runner.iter)

    def after_train(self, runner) -> None:
        if self._used:
            runner.logger.info(self._monitor.summary())

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._student is not None:
            self._state.restore(runner, checkpoint)
            self._resumed = runner._resume

    # -- afterwards ---------------------------------------------------------

    def _release(self) -> None:
        """Leave the student without a trace of this hook."""
        for handle in self._handles:
            handle.remove()
        for tap in self._taps.values():
            tap.remove()
        for teacher in self.teachers.values():
            teacher.remove()
        if self._student is not None:
            self._student._modules.pop(ENTRY, None)
        if self._state is not None:
            self._runner.hooks.remove(self._state)
        for hook in self._joined:
            self._runner.register_hook(hook)
        for owner, name in self._guards:
            delattr(owner, name)
        self._handles, self._guards = [], []
        self._taps, self.teachers = {}, {}
        self._step, self._lessons = None, {}
        self._student = self._runner = self._state = None
        self._joined = []
        self._resumed = False

    def _guard(self, owner: Any, name: str, is_last: bool) -> None:
        """Release the student when ``owner.name()`` raises or is the last."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def guarded(*args, **kwargs):
            done = False
            try:
                result = method(*args, **kwargs)
                done = True
            finally:
                if is_last or not done:
                    self._release()
            return result

        setattr(owner, name, guarded)
        self._guards.append((owner, name))

    def _wanted_of(self, owner: str) -> set[str]:
        """The sources of a teacher, or of the student, in this iteration."""
        wanted = {
            source
            for term in self._used if self._weights.get(term.name)
            for name, source in term.student_sources + term.teacher_sources
            if name == owner
        }
        if not owner:
            for name, teacher in self.teachers.items():
                if teacher.module is not None or self._wanted_of(name):
                    wanted.update(teacher.student_sources)
        return wanted


def _length(runner) -> tuple[int, int]:
    """Iterations and epochs of the run; a started epoch counts."""
    epochs = -(-runner.max_iters // len(runner.train_dataloader))
    return runner.max_iters, epochs


def _count(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _batch(args: tuple, kwargs: dict) -> tuple[torch.Tensor, Any]:
    values = dict(zip(('inputs', 'data_samples'), args), **kwargs)
    return values['inputs'], values.get('data_samples')


def _scaled(loss: Any, factor: float) -> Any:
    if isinstance(loss, (list, tuple)):
        return [item * factor for item in loss]
    return loss * factor


@torch.no_grad()
def _agreement(compared: dict[Term, tuple]) -> torch.Tensor:
    """Of class scores where there are any, else of the first features."""
    for term, (student, teacher) in compared.items():
        if (getattr(term.loss, 'channels', '') == 'classes'
                and student.shape[1] > 1):
            return class_agreement(student, teacher)
    student, teacher = next(iter(compared.values()))
    return linear_cka(student, resize_like(teacher, student))
