"""Everything that is there for one distillation run, and no longer."""
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import nn
from torch.autograd.graph import GradientEdge

from .. import randomness
from ..errors import blamed_on
from ..hosts import host_of
from ..schedules import factor_at
from ..sources import STUDENT, gather
from ..teachers import (
    BatchContext,
    RecordedViews,
    Teacher,
    TeacherOutput,
    build_teacher,
)
from .agreement import (
    AGREEMENT_INTERVAL,
    Compared,
    measure_agreement,
    scores_and_label,
)
from .auto_weight import AutoWeights
from .diagnosis import Diagnosis, Edges
from .discriminators import DiscriminatorTrainer
from .inheritance import Inheritance
from .level_matching import Pairs
from .loss_term import LossTerm
from .monitor import Monitor, render
from .plan import Plan
from .recording import (
    all_levels,
    label_for,
    positives_of,
    run_tapped,
    student_paths,
    tap_student,
    total_loss,
)
from .rehearsal import rehearse
from .unlabelled import run_unlabelled, unlabelled_value, why_labelled_only

ENTRY = 'mmselfkd'  # the submodule of the student with what is trained along

# by the name in the log: term, its share of the batch, unweighted value
Found = dict[str, tuple[LossTerm, float, torch.Tensor | None]]

Observer = Callable[[LossTerm, Pairs, BatchContext], None]


class DistillationRun:
    """Teachers, taps, losses, discriminators and monitor of one run.

    It needs no Runner: a student is a module that is called with
    ``(inputs, samples, mode='loss')`` and returns a dict of losses. In a run
    the calls are :meth:`attach`, :meth:`start`, in each iteration
    :meth:`begin_iteration`, the student's own forward pass, which then has
    the distillation losses in its dict, the optimizer's step and
    :meth:`end_iteration`; at the end :meth:`close`, which leaves the student
    without a trace. What is attached anywhere registers its removal in
    ``resources`` where it is attached.

    Args:
        student (nn.Module): The unwrapped model.
        plan (Plan): What is asked for, such as ``DistillHook(...).plan``.
        inputs (Tensor): A preprocessed training batch (N, C, H, W).
        samples (list): Its data samples.
        twin (nn.Module, optional): A copy of the student, with weights as
            the run will start from. None: one is made.
        seed (int): Of the run.
        batch_size (int, optional): Images of a full batch.
        classes (Sequence[str], optional): Names of the student's classes.
        distributed (bool): Whether several ranks train together.
        recorded (RecordedViews, optional): What the batches are made of,
            where samples come again.
        loss_scale (Callable, optional): Gives the factor of the loss in the
            backward pass of an iteration.
        unlabelled (tuple, optional): Preprocessed inputs and samples of two
            images without labels, where the plan has such.
        dataset_length (int, optional): Images of the training set, where it
            says so.

    Attributes:
        observer (Callable | None): Called in the forward pass with each term
            that is on, the pairs of levels that it compares in the labelled
            batch, and that batch.

    Raises:
        ConfigError: Whatever in the plan cannot work for this student.
    """

    def __init__(self, student: nn.Module, plan: Plan, inputs: torch.Tensor,
                 samples: Any, twin: nn.Module | None = None, seed: int = 0,
                 batch_size: int | None = None,
                 classes: Sequence[str] | None = None,
                 distributed: bool = False,
                 recorded: RecordedViews | None = None,
                 loss_scale: Callable[[], float] = lambda: 1.,
                 unlabelled: tuple[torch.Tensor, Any] | None = None,
                 dataset_length: int | None = None) -> None:
        self.student, self.plan, self.seed = student, plan, seed
        self.resources = ExitStack()
        self.terms: list[LossTerm] = []
        self.weights: dict[str, float] = {}
        self._task_factor, self._iteration, self._share = 1.0, 0, 0.
        self._measure_agreement = self._measure_gradients = False
        self._loss_scale = loss_scale
        self.observers: list[Observer] = []
        self.diagnosis = None if plan.diagnose is None else Diagnosis(
            f'{plan.key}.diagnose', plan.diagnose)
        self._context: BatchContext | None = None
        self._unlabelled: tuple[torch.Tensor, Any] | None = None
        self._outputs: dict[str, TeacherOutput] = {}
        try:
            self.teachers: dict[str, Teacher] = {
                name: build_teacher(cfg, where)
                for name, (where, cfg) in plan.used_teachers.items()
            }
            for teacher in self.teachers.values():
                teacher.check_length(*plan.length)
            for config in plan.used:
                config.loss.sync_ranks = distributed
                if dataset_length is not None:
                    with blamed_on(config.key):
                        config.loss.fit_data(dataset_length)
            if twin is None:
                twin = copy.deepcopy(student)
                twin.train()
            self.rehearsal = rehearse(
                student, twin, plan.used, self.teachers, inputs, samples,
                self.resources, seed=seed, batch_size=batch_size,
                recorded=recorded, classes=classes,
                unlabelled=None if unlabelled is None else (
                    (plan.unlabelled or ('unlabelled', ))[0], *unlabelled))
            self.terms = self.rehearsal.terms
            self.auto = AutoWeights([term.config for term in self.terms])
            self.discriminators = {
                term.name: DiscriminatorTrainer(term)
                for term in self.terms if term.loss.is_adversarial
            }
            self._inherited = [
                Inheritance(student, name, self.teachers[name], module, key)
                for key, name, module in plan.inherit
            ]
        except BaseException:
            self.close()
            raise
        self.logged = [
            term.name for term in self.terms] + self.rehearsal.own_losses
        self._with_unlabelled = {} if unlabelled is None else {
            term: f'{term.name}_unlabelled' for term in self.terms
            if why_labelled_only(term, self.teachers) is None}
        self.logged += self._with_unlabelled.values()
        self.monitor = Monitor(self.logged)
        for name, value in self.rehearsal.values.items():
            self.monitor.check_size(name, value, self.rehearsal.task)

    # -- before training ------------------------------------------------------

    def trained_modules(self) -> nn.ModuleDict:
        """What is trained along, by the name of its loss or teacher."""
        modules = nn.ModuleDict({
            term.name: term.trained for term in self.terms if term.trained})
        modules.update({
            name: teacher.module for name, teacher in self.teachers.items()
            if teacher.module is not None})
        return modules

    def attach(self) -> nn.ModuleDict:
        """Put what is trained along into the student, if there is any."""
        modules = self.trained_modules()
        if modules:
            self.student.add_module(ENTRY, modules)
            self.resources.callback(self.student._modules.pop, ENTRY, None)
        return modules

    def start(self, is_resumed: bool = False) -> None:
        """The student has its weights: tap it."""
        for part in () if is_resumed else self._inherited:
            part.copy_to(self.student)
        for teacher in self.teachers.values():
            teacher.start(self.student)
        self._taps = tap_student(
            self.student, self.plan.used, self.teachers, self.resources)
        for path in self.rehearsal.changed:
            self._taps[path].clone = True
        for tap in self._taps.values():
            tap.keeps_edges = (
                self.diagnosis is not None or bool(self.auto.terms))
        for handle in (
                self.student.register_forward_pre_hook(
                    self._before_forward, with_kwargs=True),
                self.student.register_forward_hook(
                    self._after_forward, with_kwargs=True)):
            self.resources.callback(handle.remove)

    def close(self) -> None:
        """Leave the student without a trace."""
        self.resources.close()
        self._context, self._outputs, self._unlabelled = None, {}, None

    # -- in each iteration ----------------------------------------------------

    def begin_iteration(
            self, iteration: int, epoch: int = 0,
            unlabelled: tuple[torch.Tensor, Any] | None = None) -> None:
        """Weights and schedules of this iteration.

        Args:
            iteration (int): Iterations done so far.
            epoch (int): Epochs done so far.
            unlabelled (tuple, optional): Preprocessed inputs and samples of
                the images without labels of this iteration.
        """
        self._unlabelled = unlabelled
        for discriminator in self.discriminators.values():
            discriminator.forget()
        self._iteration = iteration
        self.weights = {
            term.name: term.config.weight_at(iteration, epoch) if all(
                self.teachers[name].is_ready
                for name in term.config.teachers) else 0.
            for term in self.terms
        }
        self._task_factor = factor_at(
            self.plan.task_schedule, iteration, epoch)
        self._measure_agreement = iteration % AGREEMENT_INTERVAL == 0
        self._measure_gradients = (
            self.diagnosis is not None and self.diagnosis.begin(iteration))

    def end_iteration(self, outputs: dict[str, Any] | None = None,
                      lr_factor: float = 1.0,
                      epoch_length: int = 1) -> dict[str, torch.Tensor]:
        """The turn of what follows the student's step.

        Args:
            outputs (dict, optional): What was logged in this iteration.
            lr_factor (float): The student's learning rate as a share of its
                initial one.
            epoch_length (int): Iterations of an epoch.

        Returns:
            dict[str, Tensor]: What is to be logged as well: the loss of each
            discriminator that had its turn.
        """
        logged = {}
        for name, discriminator in self.discriminators.items():
            with self._derived(f'discriminator of {name}'):
                loss = discriminator.step(lr_factor)
            if loss is not None:
                logged[critic_key(name)] = loss
        for teacher in self.teachers.values():
            teacher.follow(self.student, self._iteration + 1, epoch_length)
        own = dict.fromkeys(self.rehearsal.own_losses, 1.)
        own |= {name: self.weights[term.name] * self._share
                for term, name in self._with_unlabelled.items()}
        self.monitor.update(
            outputs or {}, self.weights | own, self._iteration)
        return logged

    def _before_forward(self, student: nn.Module, args: tuple,
                        kwargs: dict) -> None:
        inputs, samples, mode = _call(args, kwargs)
        if mode != 'loss' or not student.training:
            return
        samples = host_of(student).snapshot(samples)
        self._context = BatchContext(
            student, inputs, samples,
            run_student=lambda other, sources: run_tapped(
                student, self._taps, sources, other, samples),
            iteration=self._iteration, seed=self.seed)
        # before there are activations of the student: a lower peak of memory
        self._outputs = self._ask(self._context, early=True)
        for path in self._wanted_of(STUDENT):
            self._taps[path].open()

    def _after_forward(self, student: nn.Module, args: tuple, kwargs: dict,
                       losses: dict[str, Any]) -> dict[str, Any] | None:
        if _call(args, kwargs)[2] != 'loss' or not student.training:
            return None
        context, outputs = self._context, self._outputs
        self._context, self._outputs = None, {}
        assert context is not None
        edges = {}
        for path in self._wanted_of(STUDENT):
            self._taps[path].close()
            context.levels[path] = self._taps[path].take(
                context.inputs.shape)
            edges[path] = self._taps[path].take_edges()
        losses = dict(losses)
        if self._task_factor != 1:
            for name in losses:
                if 'loss' in name:
                    losses[name] = _scaled(losses[name], self._task_factor)
        outputs |= self._ask(context, early=False)
        for output in outputs.values():
            output.join()
        own, places = losses, self._places(edges)
        losses = own | self._losses(context, outputs, own, places)
        if self._measure_gradients:
            assert self.diagnosis is not None
            self.diagnosis.measure(
                total_loss(own),
                {name: losses[f'distill.{name}'] for name in places},
                places, self._loss_scale())
        return losses

    def _places(self, edges: dict[str, list[GradientEdge]]) -> Edges:
        """Where in the graph each loss looks, of this iteration's."""
        sources = {
            term.name: student_paths(term.config, self.teachers)
            for term in self.terms if self.weights[term.name]}
        sources.update({
            name: list(self.teachers[name.partition('.')[0]].student_sources)
            for name in self.rehearsal.own_losses})
        return {name: [edge for path in paths for edge in edges[path]]
                for name, paths in sources.items()}

    def _ask(self, context: BatchContext,
             early: bool) -> dict[str, TeacherOutput]:
        """Ask some of the teachers.

        Early those that need nothing of the student's forward pass, then the
        others.
        """
        outputs = {}
        for name, teacher in self.teachers.items():
            wanted = self._wanted_of(name)
            if early != bool(teacher.student_sources) and (
                    wanted or teacher.module is not None):
                with self._derived(name):
                    outputs[name] = teacher.teach(context, wanted)
        return outputs

    def _derived(self, name: str) -> AbstractContextManager[None]:
        """Random numbers of this iteration for a loss or teacher."""
        return randomness.derived(
            self.seed, get_rank(), self._iteration, name)

    def _losses(self, context: BatchContext,
                outputs: dict[str, TeacherOutput], task: dict[str, Any],
                places: Edges) -> dict[str, torch.Tensor]:
        """The entries for the loss dict of this forward pass."""
        levels = all_levels(context, outputs)
        found = self._unlabelled_values(context)
        compared: Compared = {}
        for term in self.terms:
            share = self._labelled_share(term)
            if self.weights[term.name] == 0:
                found[term.name] = term, share, None
                continue
            ours = gather(term.config.student_sources, levels)
            self.monitor.check_gradients(
                term.name, [level.requires_grad for level in ours])
            pairs = term.matcher(
                ours, gather(term.config.teacher_sources, levels),
                context.layout)
            label = label_for(term, context, outputs)
            with self._derived(term.name):
                value = term.value(
                    pairs, label, context.inputs, context.layout,
                    positives_of(levels))
            found[term.name] = term, share, value
            for observer in self.observers:
                observer(term, pairs, context)
            if pairs[0][0].numel():  # there may be no RoI
                compared[term] = pairs[0]
            if term.loss.is_adversarial:
                self.discriminators[term.name].see(
                    pairs, context.inputs, share)
        own = {f'{name}.{key}': value for name, output in outputs.items()
               for key, value in output.losses.items()}
        self._set_weights(task, found, own, places)
        weights = self.auto.weigh(self.weights)
        losses = {
            f'distill.{name}': term.zero(context.inputs.device)
            if value is None else weights[term.name] * share * value
            for name, (term, share, value) in found.items()}
        losses |= {f'distill.{name}': value for name, value in own.items()}
        if compared and self._measure_agreement:
            losses.update(
                measure_agreement(compared, outputs, context.layout))
        if self.diagnosis is not None and self._measure_gradients:
            scores = scores_and_label(compared, outputs, context.layout)
            if scores is not None:
                self.diagnosis.compare(*scores)
        return losses

    def _set_weights(self, task: dict[str, Any], found: Found,
                     own: dict[str, torch.Tensor], places: Edges) -> None:
        """Those that follow from the gradients, where it is their turn."""
        values = {term.name: value for name, (term, _, value) in found.items()
                  if name == term.name and value is not None}
        if self.auto.is_due(self._iteration, values):
            self.auto.measure(
                total_loss(task), values, own, self.weights, places,
                self._task_factor, self._loss_scale())

    def _unlabelled_values(self, labelled: BatchContext) -> Found:
        """The losses on the images without labels."""
        self._share = 0.
        if self._unlabelled is None:
            return {}
        (inputs, samples), self._unlabelled = self._unlabelled, None
        assert self.plan.unlabelled is not None
        _, _, share = self.plan.unlabelled
        if share is None:
            share = len(inputs) / (len(inputs) + len(labelled.inputs))
        self._share = share
        values: Found = {name: (term, share, None)
                         for term, name in self._with_unlabelled.items()}
        on = [term for term in self._with_unlabelled
              if self.weights[term.name] * share > 0]
        if not on:
            return values
        context = BatchContext(
            self.student, inputs, samples, iteration=self._iteration,
            seed=self.seed, is_labelled=False)
        with self._derived('unlabelled'):
            found = run_unlabelled(
                on, self.teachers, self._taps, self.student, context)
        for term in on:
            name = self._with_unlabelled[term]
            with self._derived(name):
                value, pairs = unlabelled_value(term, context, found)
            values[name] = term, share, value
            if term.loss.is_adversarial:
                self.discriminators[term.name].see(pairs, inputs, share)
        return values

    def _labelled_share(self, term: LossTerm) -> float:
        return 1 - self._share if term in self._with_unlabelled else 1.

    def _wanted_of(self, owner: str) -> set[str]:
        """The sources of a teacher, or of the student, in this iteration."""
        wanted = {
            path for term in self.terms if self.weights.get(term.name)
            for name, path in term.config.sources if name == owner
        }
        if owner == STUDENT:
            for name, teacher in self.teachers.items():
                if teacher.module is not None or self._wanted_of(name):
                    wanted.update(teacher.student_sources)
        return wanted

    # -- for the log ----------------------------------------------------------

    @property
    def measured(self) -> dict[str, float]:
        """What was found of the gradients, by its name in the log."""
        found = self.auto.values(
            [name for name, weight in self.weights.items() if weight])
        return found if self.diagnosis is None else (
            found | self.diagnosis.values)

    def conclude(self, classes: Sequence[str] | None = None) -> Iterator[str]:
        """What the log says at the end."""
        yield self.monitor.summary()
        if self.auto.terms:
            yield self.auto.summary()
        if self.diagnosis is not None:
            yield self.diagnosis.summary()
            yield from self.diagnosis.advice(classes)

    def describe(self) -> Iterator[str]:
        """What the log says at the start."""
        yield render('Distillation', (
            'logged as', 'loss', 'student taps', 'teacher taps', 'adapters',
            'loss_weight'), self.rehearsal.rows)
        for name, teacher in self.teachers.items():
            yield f'{name}: {teacher.describe()}'
        for term in self.terms if self._with_unlabelled else ():
            reason = why_labelled_only(term, self.teachers)
            if reason is not None:
                yield (f'distill.{term.name} takes the labelled images alone: '
                       f'it {reason}')
        adapters = _count(term.trained for term in self.terms)
        own = _count(t.module for t in self.teachers.values() if t.module)
        others = _count(d.losses for d in self.discriminators.values())
        student = _count([self.student]) - adapters - own
        larger = (f' (more than the student, {student:,}; see width of '
                  'HolisticLoss)' if others > student else '')
        yield (f'extra trained parameters: {adapters:,} in adapters and '
               f'losses, {own:,} in teachers, {others:,} in discriminators'
               f'{larger}; none of them in the saved student')


def critic_key(name: str) -> str:
    """Under which the loss of a discriminator is logged.

    Without the word loss, so that no tool adds it to the student's losses.
    """
    part = name.replace('loss', '').strip('_.')
    return f'distill.critic.{part}' if part else 'distill.critic'


def _count(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _call(args: tuple, kwargs: dict) -> tuple[torch.Tensor, Any, str]:
    """Inputs, samples and mode of a call of the student."""
    values = dict(zip(('inputs', 'data_samples', 'mode'), args), **kwargs)
    return (values['inputs'], values.get('data_samples'),
            values.get('mode', 'tensor'))


def _scaled(loss: Any, factor: float) -> Any:
    if isinstance(loss, (list, tuple)):
        return [item * factor for item in loss]
    return loss * factor
