"""Before the first iteration: the rehearsal, and the adapters' place."""
import copy
import gc
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from .. import randomness
from ..errors import ConfigError
from ..taps import Tap
from ..terms import Term, gather
from .state import ENTRY


@torch.no_grad()
def rehearse(runner, student: nn.Module, terms: List[Term],
             teachers: Dict[str, Any]) -> Tuple[List[tuple], List[str]]:
    """One forward pass of a copy of the student and of each teacher.

    Fits the terms to the levels that they will see and lets each loss
    compute once. The student and the random generators stay as they are.

    Args:
        runner (Runner): Its training data give the two samples.
        student (nn.Module): The unwrapped model.
        terms (list[Term]): The terms in use.
        teachers (dict): Name -> teacher; their taps are added here.

    Returns:
        tuple: A row per term for the table at the start, and the student's
        sources whose tensors are changed in place behind the tap.

    Raises:
        ConfigError: A tap, a level, a shape or a class that does not fit.
    """
    if not terms:
        return [], []
    rows = []
    with randomness.preserved():
        twin = copy.deepcopy(student).train()
        inputs, samples = _two_samples(runner, twin)
        taps = tap_student(twin, terms)
        for tap in taps.values():
            tap.open()
        twin(inputs, samples, mode='loss')
        changed = [s for s, tap in taps.items() if tap.was_changed()]
        seen = {source: tap.take() for source, tap in taps.items()}
        taught = {}
        for name, teacher in teachers.items():
            teacher.follow(student, inputs.device)
            for term in terms:
                for owner, source in term.teacher_sources:
                    if owner == name:
                        teacher.add_tap(source, f'{term.key}.source')
            for source, levels in teacher.rehearse(inputs, samples).items():
                taught[name, source] = levels
        label = labels_of(samples)
        for term in terms:
            levels = gather(term.student_sources, seen)
            targets = gather(term.teacher_sources, taught)
            term.fit(levels, targets, inputs)
            try:
                term.value(term.aligned(levels, targets), label, inputs)
            except (ValueError, TypeError) as error:
                raise ConfigError(f'{term.key}: {error}') from error
            rows.append(_row(term, levels, targets))
    return rows, changed


def attach_adapters(runner, student: nn.Module, terms: List[Term],
                    hook: Hook) -> None:
    """Put the adapters into the student, its wrapper and its optimizer.

    Args:
        runner (Runner): Gets a new wrapper, optimizer and schedulers, built
            from its config; nothing if no term has adapters.
        student (nn.Module): The unwrapped model.
        terms (list[Term]): The terms in use.
        hook (Hook): Must stand before every EMAHook.

    Raises:
        ConfigError: The optimizer cannot be built anew or leaves adapters
            out, or EMAHook has copied the model already.
    """
    modules = nn.ModuleDict({
        term.name: term.adapters
        for term in terms if list(term.adapters.parameters())
    })
    if not modules:
        return
    if runner.cfg.get('optim_wrapper') is None:
        raise ConfigError(
            'optim_wrapper: the adapters need an optimizer that is built '
            'anew; make the runner by Runner.from_cfg(cfg)')
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


def tap_student(model: nn.Module, terms: List[Term]) -> Dict[str, Tap]:
    """A tap for every source of the terms, by the source."""
    taps: Dict[str, Tap] = {}
    for term in terms:
        for source in term.student_sources:
            if source not in taps:
                taps[source] = Tap(model, source, f'{term.key}.source')
    return taps


def optim_wrappers(runner):
    """The optimizer wrappers of the run, one or several."""
    wrapper = runner.optim_wrapper
    return iter(wrapper.values() if isinstance(wrapper, OptimWrapperDict)
                else [wrapper])


def labels_of(samples: Any) -> Optional[torch.Tensor]:
    """The class maps (N, H, W) of a segmentation batch, None for others."""
    if not samples or not all('gt_sem_seg' in sample for sample in samples):
        return None
    return torch.stack([s.gt_sem_seg.data.squeeze(0) for s in samples])


def _two_samples(runner, student: nn.Module) -> Tuple[torch.Tensor, Any]:
    """A batch of two training samples, preprocessed for the student."""
    loader = runner.train_dataloader
    items = [loader.dataset[i % len(loader.dataset)] for i in range(2)]
    data = student.data_preprocessor(loader.collate_fn(items), True)
    if not isinstance(data, dict) or 'inputs' not in data:
        raise ConfigError(
            'model.data_preprocessor: gives a '
            f'{type(data).__name__}; dict(inputs=..., data_samples=...), as '
            'in mmseg and mmdet, is needed')
    return data['inputs'], data.get('data_samples')


def _row(term: Term, student: List[torch.Tensor],
         teacher: List[torch.Tensor]) -> tuple:
    """What the first table says of one term."""

    def show(sources, levels):
        shapes = ' '.join('x'.join(map(str, x.shape[1:])) for x in levels)
        return f'{", ".join(sources)}: {shapes}'

    adapters = [f'{m.in_channels}->{m.out_channels}' for m in term.adapters
                if isinstance(m, nn.Conv2d)]
    schedule = type(term.schedule).__name__ if term.schedule else ''
    return (f'distill.{term.name}', type(term.loss).__name__,
            show(term.student_sources, student),
            show([source for _, source in term.teacher_sources], teacher),
            ' '.join(adapters) or '-', f'{term.loss_weight:g} {schedule}')
