"""Children of mmengine's registries in the scope ``mmselfkd``.

A type of this project resolves with or without the prefix ``mmselfkd.``,
whatever the default scope: hooks stand in mmengine's root registry too, and
what a hook's config names is built by :func:`build_part`, which does not
depend on the default scope.
"""
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import DefaultScope, Registry

from . import losses, schedules
from .errors import ConfigError, describe, nearest

SCOPE = 'mmselfkd'


class _HookRegistry(Registry):
    """Says what a misspelt ``mmselfkd.XHook`` may have meant."""

    def get(self, key: str) -> type | None:
        found = super().get(key)
        if found is None and '.' not in key:
            raise ConfigError(f"custom_hooks: type = '{SCOPE}.{key}': there "
                              'is no such hook' +
                              nearest(key, self.module_dict))
        return found


HOOKS = _HookRegistry(
    'hook', parent=MMENGINE_HOOKS, scope=SCOPE,
    locations=['mmselfkd.hooks', 'mmselfkd.comparison.recording'])
MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope=SCOPE,
    locations=['mmselfkd.losses', 'mmselfkd.models.bifpn',
               'mmselfkd.models.depth_head'])
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope=SCOPE,
    locations=['mmselfkd.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope=SCOPE,
    locations=['mmselfkd.datasets'])
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope=SCOPE,
    locations=['mmselfkd.datasets'])
TEACHERS = Registry('teacher', scope=SCOPE, locations=['mmselfkd.teachers'])
SCHEDULES = Registry(
    'loss-weight schedule', scope=SCOPE, locations=['mmselfkd.schedules'])

CONTRACTS = losses.DistillationLoss, losses.AdversarialLoss  # base classes

# these two packages know neither mmengine nor this registry
for _registry, _package in ((MODELS, losses), (SCHEDULES, schedules)):
    for _name in _package.__all__:
        _part = getattr(_package, _name)
        if inspect.isclass(_part) and _part not in CONTRACTS:
            _registry.register_module(module=_part)


def register_hook(cls: type) -> type:
    """Register a hook as ``mmselfkd.Name`` and, where free, as ``Name``."""
    HOOKS.register_module(module=cls)
    if cls.__name__ not in MMENGINE_HOOKS.module_dict:
        MMENGINE_HOOKS.register_module(module=cls)
    return cls


def build_part(cfg: Any, registry: Registry, key: str,
               also: Sequence[str] = (),
               offered: Mapping[str, Any] | None = None) -> Any:
    """Build ``cfg`` and blame its config ``key`` for what does not fit.

    Args:
        cfg (dict): ``type`` and the arguments of the class.
        registry (Registry): Searched first; then, for a user's own classes,
            the same registry of the default scope.
        key (str): Where ``cfg`` stands in the config, for the error.
        also (Sequence[str]): What may stand there beside the arguments, for
            the error.
        offered (dict, optional): Further arguments, which the class gets
            where it takes them.

    Raises:
        ConfigError: Unknown type, unknown or missing argument, or a value
            that the class refuses.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ConfigError(f'{key} = {cfg!r}: a dict with the key `type` is '
                          f'needed, for example one of '
                          f'{sorted(registry.module_dict)}')
    kwargs = dict(cfg)
    kwargs.pop('_scope_', None)  # left by inheritance from a package's config
    kind = kwargs.pop('type')
    cls = find_part(kind, registry) if isinstance(kind, str) else kind
    if not callable(cls):
        raise ConfigError(f'{key}.type = {kind!r} is not registered' +
                          nearest(kind, registry.module_dict) +
                          '; the module of a class of your own belongs into '
                          'custom_imports')
    parameters = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in (offered or {}).items():
        if takes_any or name in parameters:
            kwargs[name] = value
    if not takes_any:
        for name in kwargs:
            if name not in parameters:
                raise ConfigError(
                    f'{key}.{name} = {kwargs[name]!r}: {cls.__name__} has '
                    f'no argument {name!r}' +
                    nearest(name, [*parameters, *also]))
    for name, parameter in parameters.items():
        if (parameter.default is parameter.empty and name not in kwargs
                and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD,
                                       parameter.KEYWORD_ONLY)):
            raise ConfigError(f'{key}.{name} is missing: {cls.__name__} '
                              f'needs it')
    try:
        return cls(**kwargs)
    except ConfigError:
        raise
    except Exception as error:  # a user's own part may raise anything
        says = describe(error)  # of a teacher it has the key already
        raise ConfigError(says if says.startswith(f'{key}.') else
                          f'{key} = {dict(cfg)!r}: {says}') from error


def find_part(name: str, registry: Registry) -> Any:
    """What is registered under a name; None if nothing."""
    try:
        found = registry.get(name)
    except RuntimeError:  # mmengine's word for a name it cannot import
        found = None
    scope = DefaultScope.get_current_instance()
    if found is None and scope is not None and registry.parent is not None:
        try:
            found = registry.get(f'{scope.scope_name}.{name}')
        except RuntimeError:
            found = None
    return found
