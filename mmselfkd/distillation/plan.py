"""What the arguments of a hook ask for, and of several hooks together."""
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..checks import check_not_negative
from ..errors import ConfigError, config_errors, nearest
from ..registry import SCHEDULES, build_part
from ..sources import STUDENT, owned_sources
from .diagnosis import parse_diagnose
from .loss_config import LossConfig

TeacherConfigs = dict[str, tuple[str, dict]]


@dataclass
class Plan:
    """Who teaches what.

    Attributes:
        key (str): Of the hook, for the errors.
        teachers (dict): Name -> (config key, config) of each teacher.
        losses (list[LossConfig]): One for each entry of ``losses``.
        inherit (list[tuple]): Config key, teacher and module of each module
            that the student starts with.
        task_schedule (Callable | None): Scales the student's own losses.
        diagnose (int | None): Iterations between two measurements of the
            gradients; None: none.
        unlabelled (tuple | None): Config key, config of the loader and share
            of the images without labels.
        length (tuple): Iterations and epochs of the run, once resolved.
    """
    key: str
    teachers: TeacherConfigs
    losses: list[LossConfig]
    inherit: list[tuple[str, str, str]]
    task_schedule: Any
    diagnose: int | None = None
    unlabelled: tuple[str, Any, float | None] | None = None
    length: tuple[int | None, int | None] = (None, None)

    def resolve(self, iterations: int, epochs: int) -> None:
        """Fit the schedules into the run.

        Raises:
            ConfigError: One of them lies beyond it.
        """
        self.length = iterations, epochs
        _resolve(self.task_schedule, f'{self.key}.task_schedule', iterations,
                 epochs)
        for loss in self.losses:
            _resolve(loss.schedule, f'{loss.key}.schedule', iterations, epochs)

    @property
    def used(self) -> list[LossConfig]:
        """The losses whose weight is not always 0."""
        return [loss for loss in self.losses if loss.loss_weight > 0]

    @property
    def used_teachers(self) -> TeacherConfigs:
        """The teachers that a used loss or ``inherit`` looks at."""
        names = {name for loss in self.used for name in loss.teachers}
        names.update(name for _, name, _ in self.inherit)
        return {name: cfg for name, cfg in self.teachers.items()
                if name in names}


def make_plan(key: str, teacher: Any, preset: dict[str, dict], losses: Any,
              task_schedule: Any, inherit: Any, diagnose: Any = None,
              unlabelled: Any = None) -> Plan:
    """From the arguments of :class:`DistillHook`.

    Raises:
        ConfigError: An argument that cannot work, whatever the models are.
    """
    teachers = _named_teachers(teacher, f'{key}.teacher')
    names = list(teachers)
    entries = [
        LossConfig(name, cfg, f'{key}.losses.{name}', names) for name, cfg in
        _merged(preset, losses, f'{key}.losses').items()]
    inherit = [] if inherit is None else [
        (f'{key}.inherit', *source) for source in owned_sources(
            inherit, names[0], f'{key}.inherit', names)]
    used = {owner for entry in entries for owner in entry.teachers}
    used.update(owner for _, owner, _ in inherit)
    for owner, (where, cfg) in teachers.items():
        if owner not in used:
            raise ConfigError(
                f'{where} = {cfg!r}: no loss looks at this teacher; name it '
                f"in a source ('{owner}:...') or leave it out")
    return Plan(key, teachers, entries, inherit, None if task_schedule is None
                else build_part(task_schedule, SCHEDULES,
                                f'{key}.task_schedule'),
                parse_diagnose(diagnose, f'{key}.diagnose'),
                _unlabelled(unlabelled, f'{key}.unlabelled'))


def joined(plans: Sequence[Plan]) -> Plan:
    """Of the hooks of one run. Equal teachers are one, which runs once.

    Raises:
        ConfigError: Two losses of one name, or two task schedules.
    """
    first, *others = plans
    whole = Plan(first.key, dict(first.teachers), list(first.losses),
                 list(first.inherit), first.task_schedule, first.diagnose,
                 first.unlabelled,
                 first.length)
    for plan in others:
        names = {}  # of its teachers, in the whole
        for name, (where, cfg) in plan.teachers.items():
            names[name] = next(
                (other for other, (_, its) in whole.teachers.items()
                 if _plain(its) == _plain(cfg)), None) or _free(
                     name, whole.teachers)
            whole.teachers.setdefault(names[name], (where, cfg))
        taken = {loss.name: loss.key for loss in whole.losses}
        for loss in plan.losses:
            if loss.name in taken:
                raise ConfigError(
                    f'{loss.key}: another hook of this run has '
                    f'{taken[loss.name]}, and both would be logged as '
                    f'distill.{loss.name}; rename one of them')
            whole.losses.append(loss.with_teachers(names))
        whole.inherit += [(where, names[owner], module)
                          for where, owner, module in plan.inherit]
        if whole.unlabelled is None:
            whole.unlabelled = plan.unlabelled
        elif plan.unlabelled is not None:
            raise ConfigError(
                f'{plan.unlabelled[0]}: another hook of this run has '
                f'{whole.unlabelled[0]}; the images without labels are for '
                'the losses of all hooks, so give them once')
        if whole.task_schedule is None:
            whole.task_schedule = plan.task_schedule
        elif plan.task_schedule is not None:
            raise ConfigError(
                f'{plan.key}.task_schedule: another hook of this run scales '
                "the student's own losses too")
        whole.diagnose = min(filter(None, (whole.diagnose, plan.diagnose)),
                             default=None)
    return whole


def _unlabelled(cfg: Any, key: str) -> tuple[str, Any, float | None] | None:
    """Config key, config of the loader and share."""
    if cfg is None:
        return None
    if not isinstance(cfg, dict):
        raise ConfigError(f'{key} = {cfg!r}: dict(dataloader=..., share=...) '
                          'is needed')
    for name in cfg:
        if name not in ('dataloader', 'share'):
            raise ConfigError(f'{key}.{name} = {cfg[name]!r}: no such key' +
                              nearest(name, ('dataloader', 'share')))
    if 'dataloader' not in cfg:
        raise ConfigError(f'{key}.dataloader is missing: a config as that of '
                          'train_dataloader')
    share = cfg.get('share')
    if share is not None:
        with config_errors():
            check_not_negative(f'{key}.share', share, most=1)
    return key, cfg['dataloader'], share


def _plain(cfg: dict) -> dict:
    """With the type that is meant, and without the scope that it may have."""
    kind = cfg.get('type', 'FrozenTeacher')
    return dict(cfg, type=kind.removeprefix('mmselfkd.')
                if isinstance(kind, str) else kind)


def _free(name: str, taken: TeacherConfigs) -> str:
    """``name``, or the first of ``name_2``, ``name_3`` ... not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f'{name}_{number}'
    return free


def _resolve(schedule: Any, key: str, iterations: int, epochs: int) -> None:
    """Fit a schedule into the run."""
    if schedule is None:
        return
    try:
        schedule.resolve(epochs if schedule.by_epoch else iterations)
    except ValueError as error:
        unit = 'epochs' if schedule.by_epoch else 'iterations'
        raise ConfigError(f'{key}: counted in {unit}, {error}') from error


def _named_teachers(teacher: Any, key: str) -> TeacherConfigs:
    """Name -> (config key, config) of each teacher."""
    if not isinstance(teacher, dict) or not teacher:
        raise ConfigError(f'{key} = {teacher!r}: '
                          'dict(config=..., checkpoint=...) is needed, a '
                          "teacher without one such as dict(type='EMATeacher')"
                          ', or a dict of several such')
    named = {name: cfg for name, cfg in teacher.items() if name != '_scope_'}
    if {'config', 'checkpoint', 'type', 'cache'} & set(named) or not all(
            isinstance(cfg, dict) for cfg in named.values()):
        return {'teacher': (key, named)}
    for name in named:
        if (not isinstance(name, str) or not name.isidentifier()
                or 'loss' in name or name == STUDENT
                or hasattr(nn.ModuleDict(), name)):
            raise ConfigError(f'{key}.{name}: a teacher is named by letters, '
                              "digits and _, without 'loss', and neither "
                              "'student' nor like a method of a module")
    return {name: (f'{key}.{name}', cfg) for name, cfg in named.items()}


def _merged(preset: dict[str, dict], losses: Any,
            key: str) -> dict[str, dict]:
    """The preset's losses, changed and extended by the user's."""
    if losses is not None and not isinstance(losses, dict):
        raise ConfigError(f'{key} = {losses!r}: a dict of losses is needed')
    merged = copy.deepcopy(preset)
    for name, cfg in (losses or {}).items():
        if cfg is None and name in preset:
            del merged[name]
        elif not isinstance(cfg, dict):
            raise ConfigError(f'{key}.{name} = {cfg!r}: a dict is needed' + (
                nearest(name, preset) if preset and cfg is None else ''))
        elif name in preset and cfg.get('type') in (None,
                                                    preset[name]['type']):
            merged[name].update(cfg)
        elif 'type' not in cfg:
            raise ConfigError(f'{key}.{name} = {dict(cfg)!r}: has no `type`' +
                              (nearest(name, preset) if preset else ''))
        else:
            merged[name] = dict(cfg)
    if not merged:
        raise ConfigError(f'{key} = {losses!r}: at least one loss is needed, '
                          "such as dict(loss_kd=dict(type='KDLoss', "
                          "source='logits'))")
    return merged
