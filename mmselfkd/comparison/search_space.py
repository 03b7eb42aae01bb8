"""Which arguments of a method are searched, and over what."""
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..checks import is_integer, is_number
from ..errors import ConfigError, nearest
from ..hooks import DistillHook
from ..registry import MODELS, TEACHERS, find_part

PRESET = 'preset'  # the name of the choice that changes nothing
EVERY = 'losses.*.'  # a key of all losses, with one value


def rounded(value: Any) -> Any:
    """Floats with three digits; anything else as it is.

    Example:
        >>> rounded(0.0123456), rounded('hw')
        (0.0123, 'hw')
    """
    return float(f'{value:.3g}') if isinstance(value, float) else value


def is_integer_range(entry: Any) -> bool:
    """Whether a range has integer ends, so that integers are searched.

    Example:
        >>> is_integer_range((1, 7)), is_integer_range((1., 7))
        (True, False)
    """
    return isinstance(entry, tuple) and all(map(is_integer, entry))


class SearchSpace:
    """The arguments of a method that a search changes.

    Args:
        hook (type[DistillHook]): The method.
        entries (Mapping, optional): By dotted key ``(low, high)``, searched
            on a logarithmic scale, over the integers if both ends are
            integers; a list of values; or a dict of named values, where the
            name :data:`PRESET` for no change is added. The key
            ``losses.*.KEY`` gives all losses of the preset one value.
            Defaults to the method's own ``search_space``.
        fixed (Mapping, optional): Arguments that the user has set, by dotted
            key. They are not searched.
        key (str): Where the entries stand, for the errors.

    Attributes:
        entries (dict[str, Any]): What is left to search.
        shipped (dict[str, Any]): The value of each without a search.

    Raises:
        ConfigError: A key that the method does not have, a value that it
            refuses, a value of the preset that is not in its range,
            losses of different values under one key, or nothing to search.
    """

    def __init__(self, hook: type[DistillHook],
                 entries: Mapping[str, Any] | None = None,
                 fixed: Mapping[str, Any] | None = None,
                 key: str | None = None) -> None:
        self.hook, self.fixed = hook, dict(fixed or {})
        self.key = key or f'{hook.__name__}.search_space'
        preset = Config(dict(losses=hook.preset, teacher=hook.preset_teacher
                             or dict(config='', checkpoint='')))
        preset.merge_from_dict(self.fixed)
        self.preset = preset.to_dict()
        entries = hook.search_space if entries is None else entries
        self.entries = {name: entry for name, entry in entries.items()
                        if self._names(name)}
        if not self.entries:
            raise ConfigError(
                f'{self.key}: there is nothing to search; name keys and '
                "ranges by --space, such as 'losses.loss_kd.loss_weight="
                "(0.1,10)'")
        for name, entry in self.entries.items():
            self._check(name, entry)
        self.shipped = {name: self._shipped(name) for name in self.entries}
        for name, entry in self.entries.items():
            self._check_shipped(name, entry)

    def _names(self, name: str) -> list[str]:
        """The keys that it stands for, without what the user has settled.

        That is what the user has set, and all of a loss that is left out.
        """
        names = [name]
        if name.startswith(EVERY):
            names = [f'losses.{loss}.{name.removeprefix(EVERY)}'
                     for loss in self.preset['losses']]
        return [one for one in names
                if not self._is_left_out(one) and not any(
                    f'{key}.'.startswith(f'{one}.') for key in self.fixed)]

    def _is_left_out(self, name: str) -> bool:
        root, *path = name.split('.')
        return root == 'losses' and bool(path) and (
            self.preset['losses'].get(path[0], {}) is None)

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The values of an Optuna trial."""
        return {
            name: trial.suggest_int(name, *entry, log=True)
            if is_integer_range(entry)
            else trial.suggest_float(name, *entry, log=True)
            if isinstance(entry, tuple) else trial.suggest_categorical(
                name, [PRESET, *entry] if isinstance(entry, dict) else entry)
            for name, entry in self.entries.items()}

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the hook, by dotted keys, that values stand for.

        Numbers have three digits. What is as in the preset is left out.
        """
        found: dict[str, Any] = {}
        for name, value in values.items():
            if value == self.shipped[name]:
                continue
            entry = self.entries[name]
            found.update(self._arguments(
                name, entry[value] if isinstance(entry, dict) else
                rounded(value)))
        return found

    def _arguments(self, name: str, value: Any) -> dict[str, Any]:
        names = self._names(name)
        if not isinstance(value, dict):
            return dict.fromkeys(names, value)
        return {f'{one}.{key}': part for one in names
                for key, part in value.items()}

    def _check(self, name: str, entry: Any) -> None:
        """Build the hook with the ends of a range, or each choice."""
        key = f'{self.key}: {name} = {entry!r}'
        candidates: Any = entry
        if isinstance(entry, tuple):
            if (len(entry) != 2 or not all(map(is_number, entry))
                    or not 0 < entry[0] < entry[1]):
                raise ConfigError(f'{key}: (low, high) are needed, two '
                                  'numbers with 0 < low < high')
            if not is_integer_range(entry):  # trials have floats
                candidates = map(float, entry)
        elif isinstance(entry, dict):
            candidates = entry.values()
        elif not isinstance(entry, list) or len(entry) < 2:
            raise ConfigError(
                f'{key}: a range (low, high), a list of two values or more, '
                'or a dict of named values is needed')
        elif not all(value is None or isinstance(value, (int, float, str))
                     for value in entry):
            raise ConfigError(f'{key}: None, numbers, words and truth values '
                              'can stand in a list; give others names, in a '
                              'dict')
        for value in candidates:
            try:
                self.build(self._arguments(name, value))
            except ConfigError as error:
                raise ConfigError(f'{key}: {error}') from error

    def build(self, options: Mapping[str, Any]) -> DistillHook:
        """The hook with further arguments.

        Raises:
            ConfigError: It refuses one.
        """
        cfg = Config({} if self.hook.preset_teacher else dict(
            teacher=self.preset['teacher']))
        cfg.merge_from_dict({**self.fixed, **options})
        return self.hook(**cfg.to_dict())

    def _shipped(self, name: str) -> Any:
        """The value of the preset, equal for all that the key stands for."""
        if isinstance(self.entries[name], dict):
            return PRESET
        values = {one: self._value(one) for one in self._names(name)}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            raise ConfigError(
                f'{self.key}: {name} = {self.entries[name]!r}: the losses '
                'have different values in the preset; search them by their '
                'own keys, ' + ', '.join(
                    f'{one} ({value!r})' for one, value in values.items()))
        return first

    def _value(self, name: str) -> Any:
        """Of the preset, or the default of its class."""
        *path, last = name.split('.')
        cfg = self.preset
        for part in path:
            cfg = cfg.get(part) or {}
        defaults = dict(loss_weight=1.0)
        cls = find_part(cfg['type'], TEACHERS if path[0] == 'teacher'
                        else MODELS) if 'type' in cfg else None
        if cls is not None:
            defaults.update({
                key: parameter.default for key, parameter in
                inspect.signature(cls).parameters.items()})
        value = cfg.get(last, defaults.get(last, inspect.Parameter.empty))
        if value is inspect.Parameter.empty:
            raise ConfigError(f'{self.key}: {name}: its value in the preset '
                              'is not known' + nearest(last, defaults))
        return value

    def _check_shipped(self, name: str, entry: Any) -> None:
        """The first trial is the preset, so its value must be possible."""
        value = self.shipped[name]
        if isinstance(entry, tuple):
            holds = (is_number(value) and entry[0] <= value <= entry[1]
                     and not (is_integer_range(entry) and value % 1))
        else:
            holds = isinstance(entry, dict) or value in entry
        if not holds:
            raise ConfigError(
                f'{self.key}: {name} = {entry!r} does not hold {value!r}, '
                'the value of the preset, which the first trial has')
