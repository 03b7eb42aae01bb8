"""What distillation adds to a checkpoint, kept apart from the student.

``state_dict``, ``ema_state_dict`` and ``optimizer`` of a saved checkpoint
hold exactly what a plain run holds. The rest lies in the entry ``mmselfkd``
and comes back on resume, by name: what the config no longer has is dropped,
what is new starts fresh, and the log says which.
"""
import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict
from mmengine.utils import apply_to

from ..distillation import ENTRY, DistillationRun
from ..distillation.agreement import AGREEMENTS
from ..distillation.diagnosis import log_names
from ..distillation.run import critic_key
from .setup import unwrapped

# ENTRY names the entry of the checkpoint as well
PREFIX = f'{ENTRY}.'
EMA_PREFIX = f'module.{PREFIX}'


class StateHook(Hook):
    """Cleans a checkpoint after every other hook, fills it before them.

    ``DistillHook`` registers it with the lowest priority, so that it sees
    ``before_save_checkpoint`` after EMAHook, and calls :meth:`restore`
    itself from its own, early ``after_load_checkpoint``.

    Args:
        run (DistillationRun): Whose discriminators, teachers and automatic
            weights are saved.
    """

    priority = 'LOWEST'

    def __init__(self, run: DistillationRun) -> None:
        self.discriminators: dict[str, Any] = run.discriminators
        self.weights = {f'weight of {name}': term
                        for name, term in run.auto.terms.items()}
        self._logged = run.logged
        self._weight_keys = list(run.auto.values(run.auto.terms))
        self.teachers = {
            name: teacher for name, teacher in run.teachers.items()
            if teacher.state_dict()}

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        entry = dict(
            modules=_pop(checkpoint['state_dict'], PREFIX),
            ema=_pop(checkpoint.get('ema_state_dict', {}), EMA_PREFIX),
            discriminators=_states(self.discriminators),
            teachers=_states(self.teachers),
            weights=_states(self.weights))
        if 'optimizer' in checkpoint:
            entry['optimizer'] = _each(
                runner, checkpoint, _split_optimizer)
        checkpoint[ENTRY] = entry

    def restore(self, runner: Any, checkpoint: dict) -> None:
        """Put the entry's parts where the loading code looks for them."""
        entry = checkpoint.pop(ENTRY, {}) if runner._resume else {}
        model = unwrapped(runner.model)
        own = {
            name: value for name, value in model.state_dict().items()
            if name.startswith(PREFIX)
        }
        saved = entry.get('modules', {})
        state = checkpoint.get('state_dict', checkpoint)  # or bare weights
        kept = set(_fill(state, own, saved, PREFIX))
        if 'ema_state_dict' in checkpoint:
            _fill(checkpoint['ema_state_dict'], own, entry.get('ema', {}),
                  EMA_PREFIX)
        if not runner._resume:
            return
        if 'optimizer' in checkpoint:
            _each(runner, checkpoint, functools.partial(
                _join_optimizer, kept=kept), entry.get('optimizer', {}))
            _fit_schedulers(runner, checkpoint)
        now = {n.removeprefix(PREFIX) for n in own}
        before = set(saved)
        for kind, ours in (('discriminators', self.discriminators),
                           ('teachers', self.teachers),
                           ('weights', self.weights)):
            states = entry.get(kind, {})
            kept |= {name for name in ours.keys() & states.keys()
                     if _loads(ours[name], states[name])}
            now |= set(ours)
            before |= set(states)
        self._report(kept, now, before)
        self._forget_dropped(checkpoint)

    @staticmethod
    def _report(kept: set[str], now: set[str], before: set[str]) -> None:
        """Say by loss and teacher what goes on and what does not."""
        def owners(names: set[str]) -> set[str]:
            return {name.partition('.')[0] for name in names}

        whole = owners(now) - owners(now - kept)
        anew = owners(now - kept) & owners(before)
        parts = {
            'goes on where it was': whole,
            'starts anew, since its shape or kind has changed': anew,
            'is new': owners(now - kept) - anew,
            'is no longer part of the run': owners(before) - owners(now)
        }
        told = [f'{", ".join(sorted(names))}: {what}'
                for what, names in parts.items() if names]
        if told:
            MMLogger.get_current_instance().info(
                'distillation resumed: ' + '; '.join(told))

    def _forget_dropped(self, checkpoint: dict) -> None:
        """Keep values of losses that are gone out of the log."""
        ours = {f'train/distill.{name}' for name in self._logged}
        ours |= {f'train/{name}' for name in [
            *self._weight_keys,
            *AGREEMENTS, *log_names(self._logged),
            *map(critic_key, self.discriminators)]}
        hub = checkpoint.get('message_hub')
        if not isinstance(hub, dict):  # of an old mmengine
            return
        for part in ('log_scalars', 'resumed_keys'):
            for key in list(hub[part]):
                if key.startswith('train/distill.') and key not in ours:
                    del hub[part][key]


def _loads(part: Any, state: dict[str, Any]) -> bool:
    """Whether ``part`` took ``state``; if not, it is as it was."""
    before = copy.deepcopy(part.state_dict())
    try:
        part.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError):  # of another kind or shape
        part.load_state_dict(before)
        return False
    return True


def _states(parts: dict[str, Any]) -> dict[str, Any]:
    """The state of each, on the CPU and apart from what goes on."""
    return {
        name: apply_to(part.state_dict(), lambda x: hasattr(x, 'cpu'),
                       lambda x: x.detach().cpu().clone())
        for name, part in parts.items()
    }


def _pop(state: dict, prefix: str) -> 'OrderedDict[str, Any]':
    metadata = getattr(state, '_metadata', {})
    for name in [n for n in metadata if f'{n}.'.startswith(prefix)]:
        del metadata[name]
    return OrderedDict((name.removeprefix(prefix), state.pop(name))
                       for name in list(state) if name.startswith(prefix))


def _fill(state: dict, own: dict, saved: dict, prefix: str) -> list[str]:
    """Complete ``state`` by the saved or the present values; the saved."""
    kept = []
    for name, value in own.items():
        name = name.removeprefix(PREFIX)
        found = saved.get(name)
        if found is not None and found.shape == value.shape:
            kept.append(name)
        else:
            found = value.clone()
        state[prefix + name] = found
    return kept


def _each(runner: Any, checkpoint: dict, work: Callable,
          extras: dict | None = None) -> dict:
    """Apply ``work`` to the state of the one optimizer or of each of them."""
    names = {
        id(p): n for n, p in unwrapped(runner.model).named_parameters()}
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    result = {}
    for name, one in (wrapper.items() if several else [('', wrapper)]):
        state = checkpoint['optimizer'][name] if several else checkpoint[
            'optimizer']
        order = [[names.get(id(p), '') for p in group['params']]
                 for group in one.optimizer.param_groups]
        result[name] = work(state, order, (extras or {}).get(name, {}), one)
    return result


def _split_optimizer(state: dict, order: list[list[str]],
                     *_: Any) -> dict:
    """Take the parameters of this project out of ``state``, by name."""
    flat = [name for names in order for name in names]
    stock = [i for i, name in enumerate(flat) if not name.startswith(PREFIX)]
    number = {old: new for new, old in enumerate(stock)}
    extra_state = {
        name: state['state'][i] for i, name in enumerate(flat)
        if i not in number and i in state['state']
    }
    groups, extra_groups = [], {}
    for group, names in zip(state['param_groups'], order):
        params = [number[i] for i in group['params'] if i in number]
        settings = {k: v for k, v in group.items() if k != 'params'}
        if params:
            groups.append({**settings, 'params': params})
        else:
            extra_groups.update(dict.fromkeys(names, settings))
    state['state'] = {
        number[i]: value for i, value in state['state'].items()
        if i in number
    }
    state['param_groups'] = groups
    return dict(state=extra_state, groups=extra_groups)


def _join_optimizer(state: dict, order: list[list[str]], extra: dict,
                    wrapper: Any, kept: set[str]) -> None:
    """The inverse: ``state`` for the optimizer as it is built now.

    The state of a parameter of ours is taken where its weights were.
    """
    stock = iter(state['param_groups'])
    first = state['param_groups'][0]
    progress = first['lr'] / (first.get('initial_lr') or first['lr'] or 1)
    result, groups, index, old = {}, [], 0, 0
    for names, fresh in zip(order, wrapper.optimizer.param_groups):
        own = all(name.startswith(PREFIX) for name in names)
        settings = dict(next(stock)) if not own else extra.get(
            'groups', {}).get(names[0])
        if settings is None:  # new: as far in its schedule as the others
            settings = {k: v for k, v in fresh.items() if k != 'params'}
            settings['lr'] = settings.get('initial_lr',
                                          settings['lr']) * progress
        numbers = []
        for name in names:
            numbers.append(index)
            if name.startswith(PREFIX):
                found = extra.get('state', {}).get(name) if (
                    name.removeprefix(PREFIX) in kept) else None
            else:
                found, old = state['state'].get(old), old + 1
            if found is not None:
                result[index] = found
            index += 1
        groups.append({**settings, 'params': numbers})
    state['state'], state['param_groups'] = result, groups


def _fit_schedulers(runner: Any, checkpoint: dict) -> None:
    """Give each scheduler the start values of the groups as they are now.

    It has one a group, and leaves a group beyond them at its rate for good.
    Behind them is that of the optimizer's own settings, which mmengine logs
    as ``base_lr`` where groups differ.
    """
    states, saved = checkpoint['optimizer'], checkpoint.get('param_schedulers')
    wrappers: Any = runner.optim_wrapper
    if not isinstance(saved, dict):  # of the one optimizer
        states, saved = {'': states}, {'': saved or []}
        wrappers = {'': wrappers}
    for name, schedulers in saved.items():
        for scheduler in schedulers:
            start = f'initial_{scheduler["param_name"]}'
            groups = states[name]['param_groups']
            if all(start in group for group in groups):
                own = wrappers[name]
                base = scheduler['base_values'][-1:] if len(
                    own.param_groups) > len(own.optimizer.param_groups) else []
                scheduler['base_values'] = [
                    *(group[start] for group in groups), *base]
