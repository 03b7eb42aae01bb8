"""The training steps that ``step_cost.py`` compares, made from configs."""
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import tools_path  # noqa: F401
import torch
from methods import is_distillation
from mmengine.config import Config
from mmrazor_step import as_mmrazor

# what makes a plain training step what it is
STUDENT = ('model', 'data_preprocessor', 'train_dataloader', 'optim_wrapper',
           'custom_hooks', 'activation_checkpointing', 'compile',
           'efficient_conv_bn_eval', 'env_cfg')
# what FrozenTeacher offers, as the table calls it
OPTIONS = {
    'bf16': dict(precision='bf16'),
    'fp16': dict(precision='fp16'),
    'channels last': dict(channels_last=True),
    'bf16, channels last': dict(precision='bf16', channels_last=True),
    'compiled': dict(compile=True),
    'bf16, channels last, compiled': dict(
        precision='bf16', channels_last=True, compile=True)
}
ON_A_GPU = {'side stream': dict(side_stream=True)}


@dataclass(eq=False)
class Variant:
    """The training step of one config, and what was measured of it.

    Attributes:
        name (str): Of its row.
        cfg (Config): Of its run.
        leader (Variant): Whose data loader gives the batches.
        plain (Variant | None): What it is compared with.
        ours (Variant | None): The same distillation by this project, where
            this is how mmrazor makes it.
        default (Variant | None): The same without the options of the
            teacher that this has.
        live (Variant | None): The same without the cache of the teacher that
            this has.
        loop (WaitingLoop | None): Makes the steps.
        run (DistillationRun | None): What distils.
        forwards (list[Callable]): Repeat what teachers did in the last step.
        losses (int): Distillation losses there are.
        extra (int): Parameters that are trained along with the student.
        taught (int): Parameters of teachers, not trained.
        times, teaching (list[float]): Milliseconds of the step and of the
            teachers' forwards, by round.
        reading (list[float]): Milliseconds in which answers are read ahead,
            by round.
        taught_levels (list[Tensor]): What the teachers gave in the last of
            them.
        began (int): Iteration of the first of them.
        active (list[int]): Distillation losses that were on, by round.
        resident, peak, taught_peak (list[int]): Bytes that stay, and that
            the step and the teachers' forwards allocate on top, by step.
        weights (int): Bytes of the teachers.
        saved (int): Bytes of a checkpoint.
        shape (tuple): Of the student's input, where the variant leads.
    """
    name: str
    cfg: Config
    leader: Optional['Variant'] = None
    plain: Optional['Variant'] = None
    ours: Optional['Variant'] = None
    default: Optional['Variant'] = None
    live: Optional['Variant'] = None
    loop: Any = None
    run: Any = None
    forwards: list[Callable] = field(default_factory=list)
    losses: int = 0
    extra: int = 0
    taught: int = 0
    times: list[float] = field(default_factory=list)
    teaching: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    taught_levels: list[torch.Tensor] = field(default_factory=list)
    began: int = 0
    active: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    taught_peak: list[int] = field(default_factory=list)
    weights: int = 0
    saved: int = 0
    shape: tuple = ()


def distillations(cfg):
    """The entries of ``custom_hooks`` that are hooks of this project."""
    return [entry for entry in cfg.get('custom_hooks') or []
            if is_distillation(entry, cfg.get('default_scope'))]


def without_distillation(cfg):
    """The config of the plain student."""
    plain, ours = copy.deepcopy(cfg), distillations(cfg)
    plain.custom_hooks = [entry for entry in cfg.get('custom_hooks') or []
                          if entry not in ours]
    return plain


def same_student(one, other):
    """Whether two configs without distillation make the same step."""
    return all(one.get(key) == other.get(key) for key in STUDENT)


def line_up(configs):
    """A variant for each config and for each plain student they need.

    Args:
        configs (list[tuple]): Name and config of each.
    """
    groups = []
    for name, cfg in configs:
        plain = without_distillation(cfg)
        is_plain = len(plain.custom_hooks) == len(
            cfg.get('custom_hooks') or [])
        for group in groups:
            if same_student(group[0], plain):
                break
        else:
            group = [plain, True, []]
            groups.append(group)
        group[1] &= is_plain
        group[2].append(Variant(name, cfg))
    variants, references = [], []
    for plain, all_plain, members in groups:
        if not all_plain:
            reference = Variant(f'plain of {members[0].name}', plain)
            references.append(reference)
            for member in members:
                member.plain = reference
            members.insert(0, reference)
        for member in members:
            member.leader = members[0]
        variants += members
    if len(references) == 1:
        references[0].name = 'plain'
    return variants


def with_mmrazor(variants):
    """The variants, each distillation followed by the same as mmrazor's.

    Raises:
        ValueError: A distillation is not one that ``as_mmrazor`` can make.
    """
    result = []
    for variant in variants:
        result.append(variant)
        entries = distillations(variant.cfg)
        if len(entries) > 1:
            raise ValueError(f'{variant.name} has several distillation hooks')
        for entry in entries:
            result.append(Variant(
                f'{variant.name}, as mmrazor', as_mmrazor(
                    entry, without_distillation(variant.cfg)),
                variant.leader, variant.plain, variant))
    return result


def pretrained_teachers(cfg):
    """Their configs, one or several in each distillation hook."""
    found = []
    for entry in distillations(cfg):
        teacher = entry.get('teacher') or {}
        found += [one for one in (teacher, *teacher.values())
                  if isinstance(one, dict) and 'checkpoint' in one]
    return found


def with_options(variants):
    """The variants, and each with a pretrained teacher under all options.

    Raises:
        ValueError: None of them has a pretrained teacher.
    """
    options = OPTIONS | (ON_A_GPU if torch.cuda.is_available() else {})
    result = []
    for variant in variants:
        result.append(variant)
        if not pretrained_teachers(variant.cfg):
            continue
        for name, changes in options.items():
            cfg = copy.deepcopy(variant.cfg)
            for teacher in pretrained_teachers(cfg):
                teacher.update(changes)
            result.append(Variant(
                f'{variant.name}, {name}', cfg, variant.leader, variant.plain,
                default=variant))
    if len(result) == len(variants):
        raise ValueError('no config has a pretrained teacher')
    return result


def with_cache(variants, folder):
    """The variants, and each with a pretrained teacher whose cache is full.

    The samples of all come in recorded views.

    Args:
        variants (list[Variant]): As :func:`line_up` gives them.
        folder (str): Of the caches.

    Raises:
        ValueError: None of them has a pretrained teacher.
    """
    result = []
    for variant in variants:
        loader = variant.cfg.train_dataloader
        loader.dataset = dict(
            type='mmselfkd.FixedViews', views=1, dataset=loader.dataset)
        result.append(variant)
        cfg = copy.deepcopy(variant.cfg)
        teachers = pretrained_teachers(cfg)
        for teacher in teachers:
            teacher['cache'] = dict(dir=folder, limit=None)
        if teachers:
            result.append(Variant(
                f'{variant.name}, cached', cfg, variant.leader, variant.plain,
                live=variant))
    if len(result) == len(variants):
        raise ValueError('no config has a pretrained teacher')
    return result


def stripped(cfg, work_dir, name):
    """The config without what has no part in a training step."""
    cfg = copy.deepcopy(cfg)
    for stage in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{stage}_{part}'] = None
    hooks = dict(cfg.get('default_hooks') or {}, logger=None, checkpoint=None)
    hooks.pop('visualization', None)
    # a worker process would load the next batch while a step is timed
    loader = dict(cfg.train_dataloader, num_workers=0)
    for key in ('persistent_workers', 'prefetch_factor', 'timeout',
                'multiprocessing_context'):
        loader.pop(key, None)
    # update() would merge the dicts
    cfg.default_hooks, cfg.train_dataloader = hooks, loader
    cfg.update(
        work_dir=str(work_dir),
        experiment_name=name,
        launcher='none',
        resume=False,
        visualizer=None,
        log_level='WARNING')
    return cfg
