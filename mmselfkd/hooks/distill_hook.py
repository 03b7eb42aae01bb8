"""The hook that makes a stock run a distillation run."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from ..distillation import DistillationRun, joined, make_plan
from ..errors import ConfigError, nearest
from ..registry import register_hook
from .checkpoint import StateHook
from .cleanup import close_after_training
from .setup import class_names, length, optim_wrappers, set_up_run
from .unlabelled import UnlabelledImages


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
            arguments of the loss, ``source``, ``loss_weight`` (1.0, or
            ``'auto'``: such that the loss is ``share``, 0.3, of the gradient
            at what it looks at) and optionally ``schedule``; with boxes in
            the data ``foreground``, the share of the objects in the weight
            of an image (0.5); and ``classes``, the channels of one anchor,
            where class scores come from a head that is not known. In a
            method hook they change the method's own losses key by key,
            ``None`` switching one off, or add further ones.
        task_schedule (dict, optional): A schedule whose factor scales the
            student's own losses.
        inherit (str | list[str], optional): Modules, such as ``['neck',
            'decode_head']``, that the student takes from its pretrained
            teacher at the start, weight by weight where names and shapes
            agree. Not on resume. With several teachers ``'name:neck'``.
        diagnose (dict, optional): ``dict(interval=N)`` measures, in every
            N-th iteration, the share of each loss in the gradient at what it
            looks at, ``distill.share.<key>``, its cosine with the gradient
            of the student's own losses, ``distill.cosine.<key>``, and the
            agreement where the teacher is right and wrong. The student is
            the same. Defaults to None: not measured.
        unlabelled (dict, optional): Images without labels, on which only the
            distillation losses run: ``dataloader``, a config as that of
            ``train_dataloader``, and ``share``, the weight a in [0, 1] of
            these images in each loss, (1 - a) * labelled + a * unlabelled;
            by default their share of the images. The second summand is
            logged as ``distill.<key>_unlabelled``. Losses that need labels or
            regions take the labelled batch alone, at their whole weight.

    Raises:
        ConfigError: Before the first iteration, for whatever in the config
            cannot work.
    """

    priority = 'HIGH'  # modules are attached before EMAHook copies the model
    preset: dict[str, dict] = {}
    preset_teacher: dict | None = None
    preset_task_schedule: dict | None = None
    search_space: dict = {}  # what tools/tune.py searches

    def __init__(self,
                 teacher: dict | None = None,
                 losses: dict[str, dict | None] | None = None,
                 task_schedule: dict | None = None,
                 inherit: str | list[str] | None = None,
                 diagnose: dict | None = None,
                 unlabelled: dict | None = None,
                 **unknown: Any) -> None:
        name = type(self).__name__
        for argument, value in unknown.items():
            raise ConfigError(
                f'{name}.{argument} = {value!r}: no such argument' +
                nearest(argument, ('teacher', 'losses', 'task_schedule',
                                   'inherit', 'diagnose', 'unlabelled')))
        self.plan = make_plan(
            name, self.preset_teacher if teacher is None else teacher,
            self.preset, losses, self.preset_task_schedule
            if task_schedule is None else task_schedule, inherit, diagnose,
            unlabelled)
        self.run: DistillationRun | None = None
        self._images: UnlabelledImages | None = None
        self._is_resumed = False

    def before_run(self, runner: Any) -> None:
        """Set up the run; for this and all later distillation hooks."""
        # val and test call this stage too; there the train loop is a config
        # or has run to its end
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop) or loop.iter >= loop.max_iters:
            return
        if hasattr(runner, 'strategy'):
            raise ConfigError(f'runner_type = {type(runner).__name__!r}: '
                              f"{type(self).__name__} works with mmengine's "
                              'Runner only')
        hooks = [h for h in runner.hooks if isinstance(h, DistillHook)]
        for hook in hooks:
            hook.plan.resolve(*length(runner))
        plan = joined([hook.plan for hook in hooks])
        self._images = None
        if plan.unlabelled is not None:
            key, loader, _ = plan.unlabelled
            self._images = UnlabelledImages(runner, loader, key)
        self.run = set_up_run(runner, self, plan, self._images)
        resources = self.run.resources
        if self._images is not None:
            resources.callback(self._images.stop)
        resources.callback(setattr, self, 'run', None)
        for hook in hooks[1:]:  # this one does their work
            runner.hooks.remove(hook)
            resources.callback(runner.register_hook, hook)
        self._state = StateHook(self.run)
        runner.register_hook(self._state)
        resources.callback(runner.hooks.remove, self._state)
        close_after_training(runner, self, resources)
        self._is_resumed = False
        if not self.run.terms:
            runner.logger.warning(
                f'{type(self).__name__}: every loss_weight is 0, nothing is '
                'distilled')
            return
        for line in self.run.describe():
            runner.logger.info(line)
        self._compare_classes(runner)

    def before_train(self, runner: Any) -> None:
        """Tap the student, now that EMAHook has its copy."""
        if self.run is not None:
            self.run.start(self._is_resumed)
            if self._images is not None:
                self._images.start(runner.iter)

    def before_train_iter(self, runner: Any, batch_idx: int,
                          data_batch: Any = None) -> None:
        if self.run is not None:
            self.run.begin_iteration(
                runner.iter, runner.iter // len(runner.train_dataloader),
                None if self._images is None else self._images.batch(
                    self.run.student, runner.iter))

    def after_train_iter(self, runner: Any, batch_idx: int,
                         data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        if self.run is None:
            return
        group = optim_wrappers(runner)[0].optimizer.param_groups[0]
        initial = group.get('initial_lr') or group['lr'] or 1.0
        logged = self.run.end_iteration(outputs, group['lr'] / initial,
                                        len(runner.train_dataloader))
        # not by the losses: mmengine adds up whose name has `loss` in it
        for key, value in {**logged, **self.run.measured}.items():
            runner.message_hub.update_scalar(f'train/{key}', value)

    def after_train(self, runner: Any) -> None:
        if self.run is not None and self.run.terms:
            for line in self.run.conclude(class_names(runner)):
                runner.logger.info(line)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if self.run is not None:
            self._state.restore(runner, checkpoint)
            self._is_resumed = runner._resume

    def _compare_classes(self, runner: Any) -> None:
        """Warn where a teacher was trained on other classes."""
        classes = class_names(runner)
        assert self.run is not None
        for teacher in self.run.teachers.values():
            if teacher.classes and classes and tuple(
                    teacher.classes) != tuple(classes):
                runner.logger.warning(
                    f'{teacher.key}: was trained on the classes '
                    f'{tuple(teacher.classes)}, the data has '
                    f'{tuple(classes)}')
