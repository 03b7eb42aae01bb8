"""From a Runner to a distillation run, before the first iteration."""
import copy
import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from .. import randomness
from ..distillation import ENTRY, DistillationRun, Plan
from ..errors import ConfigError
from ..hosts import host_of
from .unlabelled import UnlabelledImages
from .views import recorded_views


def set_up_run(runner: Any, hook: Hook, plan: Plan,
               images: UnlabelledImages | None = None) -> DistillationRun:
    """A run for the Runner's student, with what it trains in the optimizer.

    Args:
        runner (Runner): Its ``before_run`` stage is under way.
        hook (Hook): Must stand before every EMAHook.
        plan (Plan): What all distillation hooks ask for.
        images (UnlabelledImages, optional): Those of ``plan.unlabelled``.

    Raises:
        ConfigError: Something of it cannot work.
    """
    run = make_run(runner, plan, images)
    try:
        modules = run.attach()
        if modules:
            _rebuild_optimizer(runner, unwrapped(runner.model), modules, hook)
    except BaseException:
        run.close()
        raise
    return run


def make_run(runner: Any, plan: Plan,
             images: UnlabelledImages | None = None) -> DistillationRun:
    """A run for the Runner's student, which it leaves as it is.

    Args:
        runner (Runner): With its train loop and optimizer wrapper.
        plan (Plan): What all distillation hooks ask for.
        images (UnlabelledImages, optional): Those that the plan names.

    Raises:
        ConfigError: Something of it cannot work.
    """
    student = unwrapped(runner.model)
    with randomness.preserved():
        twin = _copy_as_started(student)
        recorded = recorded_views(runner, lambda: _copy_of(
            runner.train_dataloader.dataset, runner))
        inputs, samples = _two_samples(runner, twin)
        return DistillationRun(
            student, plan, inputs, samples, twin, seed=runner.seed,
            batch_size=batch_size(runner.train_dataloader),
            classes=class_names(runner),
            distributed=get_world_size() > 1, recorded=recorded,
            loss_scale=partial(_loss_scale, runner),
            unlabelled=None if images is None else images.two_samples(twin),
            dataset_length=_length_of(runner.train_dataloader.dataset))


def _length_of(dataset: Any) -> int | None:
    """How many samples it has; None where it does not know."""
    return len(dataset) if hasattr(dataset, '__len__') else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without DDP."""
    inner: Any = model
    return inner.module if is_model_wrapper(model) else model


def batch_size(loader: Any) -> int | None:
    """Images of a full batch; a batch sampler knows, or else nobody."""
    return loader.batch_size or getattr(
        loader.batch_sampler, 'batch_size', None)


def length(runner: Any) -> tuple[int, int]:
    """Iterations and epochs of the run; a started epoch counts."""
    epochs = -(-runner.max_iters // len(runner.train_dataloader))
    return runner.max_iters, epochs


def class_names(runner: Any) -> Any:
    """The names of the student's classes, as the data set says them."""
    return getattr(runner.train_dataloader.dataset, 'metainfo', {}).get(
        'classes')


def optim_wrappers(runner: Any) -> list[Any]:
    """The optimizer wrappers of the run, one or several."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(
        wrapper, OptimWrapperDict) else [wrapper]


def _loss_scale(runner: Any) -> float:
    """By which the loss is multiplied in the backward pass."""
    scaler = getattr(optim_wrappers(runner)[0], 'loss_scaler', None)
    return 1. if scaler is None else scaler.get_scale()


def _copy_as_started(student: nn.Module) -> nn.Module:
    """A copy with weights as the run will start from.

    Before the loop no weight is initialised. Proposals that are noise would
    fail where those of the run do not.
    """
    twin: Any = copy.deepcopy(student)
    twin.train()  # whatever it returns: some of mmdet's give None
    if hasattr(twin, 'init_weights'):
        twin._dump_init_info = lambda *args: None  # the run's own will say it
        with randomness.preserved():
            twin.init_weights()
    randomness.bound_parameters(twin)  # some modules leave it to load_from
    return twin


def _two_samples(runner: Any,
                 student: Any) -> tuple[torch.Tensor, Any]:
    """A batch of two training samples, preprocessed for the student."""
    for hook in runner.hooks:  # heads ask the message hub for the time
        if isinstance(hook, RuntimeInfoHook):
            hook.before_train(runner)
    loader = runner.train_dataloader
    dataset = _copy_of(loader.dataset, runner)
    _warn_of_padding(dataset, runner)
    items = [dataset[i % len(dataset)] for i in range(2)]
    data = student.data_preprocessor(loader.collate_fn(items), True)
    return host_of(student).unpack(data)


def _copy_of(dataset: Any, runner: Any) -> Any:
    """A copy, so that transforms with a memory do not go on.

    What is large and only read, the list of samples, is shared.
    """
    shared: dict[int, Any] = {}
    for part in _datasets(dataset):
        for name in ('data_list', 'data_bytes', 'data_address', 'coco'):
            value = getattr(part, name, None)
            if value is not None:
                shared[id(value)] = value
    try:
        return copy.deepcopy(dataset, shared)
    except Exception as error:  # of whatever it holds: an open file, a lock
        runner.logger.warning(
            f'{type(dataset).__name__} cannot be copied ({error}), so two '
            'samples of it are loaded before training; a transform with a '
            'memory goes on from there')
        return dataset


def _datasets(dataset: Any) -> Iterator[Any]:
    """A data set and those that it wraps."""
    yield dataset
    inner = getattr(dataset, 'dataset', None)
    for part in [inner] if inner is not None else getattr(
            dataset, 'datasets', ()):
        yield from _datasets(part)


def _warn_of_padding(dataset: Any, runner: Any) -> None:
    """A transform that pads: what it adds counts as image."""
    for part in _datasets(dataset):
        for transform in _transforms(getattr(part, 'pipeline', None)):
            if any(cls.__name__ == 'Pad' for cls in type(transform).__mro__):
                runner.logger.warning(
                    'train_dataloader.dataset.pipeline: what a Pad adds '
                    'counts as image in the distillation losses, since '
                    'img_shape grows with it; let the data_preprocessor pad '
                    '(`size` or `size_divisor` in mmseg, `pad_size_divisor` '
                    'in mmdet), whose padding takes no part')
                return


def _transforms(pipeline: Any) -> Iterator[Any]:
    """Those of a pipeline, and those that they choose from or repeat."""
    if isinstance(pipeline, (list, tuple)):
        for part in pipeline:
            yield from _transforms(part)
    elif pipeline is not None:
        yield pipeline
        yield from _transforms(getattr(pipeline, 'transforms', None))


def _rebuild_optimizer(runner: Any, student: nn.Module,
                       modules: nn.ModuleDict, hook: Hook) -> None:
    """Build wrapper, optimizer and schedulers anew, with ``modules`` in.

    They are part of the student by now, so parameter-wise options, AMP,
    accumulation, clipping, EMA and DDP apply to them as to any other.

    Raises:
        ConfigError: The optimizer cannot be built anew or leaves a parameter
            out, or EMAHook has copied the model already.
    """
    if runner.cfg.get('optim_wrapper') is None:
        raise ConfigError(
            'optim_wrapper: what is trained along needs an optimizer that is '
            'built anew; make the runner by Runner.from_cfg(cfg)')
    if any(isinstance(other, EMAHook)
           for other in runner.hooks[:runner.hooks.index(hook)]):
        raise ConfigError(f'{type(hook).__name__}.priority: must come '
                          'before EMAHook, which copies the model')
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
