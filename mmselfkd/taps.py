"""A tap: one place of a model whose tensors a loss looks at.

A source is a dotted module path (``decode_head.conv_seg``), with ``[i]`` to
pick one of several outputs (``backbone[3]``), or an alias that the model's
host explains (:mod:`mmselfkd.hosts`):

- ``logits``: the class scores of the main head before any resize;
- ``features``: what that head sees: in a segmentor or depth estimator what
  enters its classifier, in front of its dropout; in a detector the levels of
  the neck;
- ``pyramid``: the levels of a detector's neck, the stages of the backbone of
  another model;
- ``boxes``: what the box layer of a dense or RoI head gives;
- ``branches.3``: what the third convolution of the class and of the box
  branch of a dense head gives, before its activation, two maps a level;
- ``depth``: what a depth estimator's ``conv_depth`` gives.

What a tap gives is a list of tensors, the levels:

- a module that gives one tensor gives one level; a tuple, list or dict is
  flattened in its order, so ``neck`` alone is all levels;
- a module that runs several times within one forward (a head shared by the
  levels of an FPN) gives the levels of its runs in their order;
- ``[i]`` picks from what the module returned, or from its runs where there
  are several; ``[i][j]`` goes on inside;
- a module list gives the runs of its members in their order;
- tokens (N, L, C) become a map (N, C, h, w) where the model's patch grid is
  known, else (N, C, L, 1); so does a map (N, h, w, C) of a model that has its
  channels last; vectors (R, C) of RoIs become (R, C, 1, 1);
- only runs within the model's own forward count: what activation
  checkpointing runs again in the backward pass does not.
"""
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .errors import ConfigError
from .hosts import Place, host_of
from .hosts.tokens import is_channels_last

_SOURCE = re.compile(r'^(?P<path>[^\[\]]+)(?P<index>(\[-?\d+\])*)$')


@dataclass(frozen=True)
class _Edge:
    """Where a tensor lies in the graph; None: no gradient comes there."""
    found: GradientEdge | None


class Tap:
    """Records what passes one place of a model while it is open.

    Args:
        model (nn.Module): The unwrapped model.
        source (str): See the module's docstring.
        key (str): Where the source stands in the config, for the errors.
        resources (ExitStack): Takes the torch hooks off when it is closed.

    Raises:
        ConfigError: The source names no module of the model.
    """

    def __init__(self, model: nn.Module, source: str, key: str,
                 resources: ExitStack) -> None:
        self.source, self.key = source, key
        self.clone = False  # keep a copy: the tensor is changed afterwards
        self.changed = False  # whether what was taken had been changed
        self.expected_runs: int | None = None  # known after a rehearsal
        self.keeps_edges = False  # also where the levels lie in the graph
        self.runs: list[tuple[Any, Any, Any]] = []
        self._edges: list[GradientEdge] = []
        self.is_open = False
        self.on_run: Callable[[], None] = _nothing
        self.place, self._indices = _resolve(model, source, key)
        self._aliases = host_of(model).aliases
        self._rewritten = _rewritten_around(model, source)
        self._dropped: tuple[Any, Any] | None = None  # dropout's out and in
        for module in self.place.modules:
            if self.place.argument is None:
                handle = module.register_forward_hook(self._see_output)
            else:
                handle = module.register_forward_pre_hook(
                    self._see_input, with_kwargs=True)
            resources.callback(handle.remove)
        if self.place.dropout is not None:
            resources.callback(self.place.dropout.register_forward_hook(
                self._see_dropout).remove)
        resources.callback(self.forget)

    def _see_dropout(self, module: nn.Module, args: tuple, out: Any) -> None:
        if self.is_open:
            self._dropped = out, args[0]

    def _see_input(self, module: nn.Module, args: tuple,
                   kwargs: dict) -> None:
        argument = self.place.argument
        assert argument is not None
        value = kwargs.get(argument) if isinstance(argument, str) else (
            args[argument])
        if self._dropped is not None and self._dropped[0] is value:
            value = self._dropped[1]
        self._see(value)

    def _see_output(self, module: nn.Module, args: tuple, out: Any) -> None:
        self._see(out)

    def _see(self, value: Any) -> None:
        if not self.is_open:
            return
        # of the tensor itself, as it is now: a clone is beside the student's
        # own path, and what is changed in place moves on
        edges = _map_tensors(_edge, value) if self.keeps_edges else None
        if self.clone:
            value = _map_tensors(torch.clone, value)
        self.runs.append((value, _versions(value), edges))
        self.on_run()

    def open(self) -> None:
        """Forget what was recorded and record from now on."""
        self.runs = []
        self.is_open = True

    def close(self) -> None:
        """Record no more; what was recorded stays until :meth:`take`."""
        self.is_open = False
        self._dropped = None

    def forget(self) -> None:
        """Close, and drop what was recorded."""
        self.close()
        self.runs, self._edges = [], []

    @property
    def is_satisfied(self) -> bool:
        """Whether as many runs were recorded as in the rehearsal."""
        return (self.expected_runs is not None
                and len(self.runs) >= self.expected_runs)

    def take(self, shape: Sequence[int] = ()) -> list[torch.Tensor]:
        """The recorded levels; the tap forgets them.

        Args:
            shape (Sequence[int]): Of the model's input (N, C, H, W), by
                which tokens find their place.

        Raises:
            ConfigError: The module did not run, an index is out of range,
                or what it gave holds something else than tensors.
        """
        runs, self.runs = self.runs, []
        where = f'{self.key} = {self.source!r}'
        if not runs and self.place.missing:
            raise ConfigError(f'{where}: {self.place.missing}')
        if not runs and self._rewritten:
            raise ConfigError(
                f'{where}: the module did not run in the forward pass. '
                'efficient_conv_bn_eval has rewritten '
                f'{self._rewritten!r}, and what is inside runs no more: tap '
                f'{self._rewritten!r} itself, or leave it out of '
                'efficient_conv_bn_eval')
        if not runs:
            raise ConfigError(
                f'{where}: the module did not run in the forward pass. '
                'The hosts call the `forward` of a head directly, so a '
                'head itself cannot be tapped: tap a module inside it'
                f'{self._inside()}, or use one of {list(self._aliases)}')
        self.changed = any(
            _versions(run) != versions for run, versions, _ in runs)
        values, edges = ([run[i] for run in runs] for i in (0, 2))
        if self.place.select is None:
            value = self._picked(_one_or_all(values))
        else:  # a function of tensors, which may make others of them
            value = self._picked(self.place.select(values))
        if self.keeps_edges:
            picked = self._picked(_one_or_all(edges)) if (
                self.place.select is None) else edges
            self._edges = [edge.found for edge in _flatten(picked)
                           if isinstance(edge, _Edge) and edge.found]
        levels = list(_flatten(value))
        for level in levels:
            if not isinstance(level, torch.Tensor):
                raise ConfigError(
                    f'{where}: gives a {type(level).__name__}, not a tensor' +
                    self._tensors_in(value))
            if not level.is_floating_point():
                raise ConfigError(f'{where}: gives {level.dtype} values; a '
                                  'loss needs floating point')
        if self.place.is_raw:
            return levels
        return [self._as_map(level, tuple(shape)) for level in levels]

    def take_edges(self) -> list[GradientEdge]:
        """Where the levels taken last lie in the graph; forgets them.

        Those that carry gradient, if :attr:`keeps_edges` was set. Where the
        host makes the levels of several outputs, it is these outputs.
        """
        edges, self._edges = self._edges, []
        return edges

    def _picked(self, value: Any) -> Any:
        """What the indices pick.

        Raises:
            ConfigError: One of them has nothing to pick from.
        """
        where = f'{self.key} = {self.source!r}'
        for index in self._indices:
            if isinstance(value, dict):
                value = list(value.values())
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f'{where}: [{index}] has nothing to pick '
                                  f'from, the module gives one '
                                  f'{type(value).__name__}')
            if not -len(value) <= index < len(value):
                raise ConfigError(f'{where}: index {index} is out of range, '
                                  f'allowed: 0 to {len(value) - 1}')
            value = value[index]
        return value

    def _inside(self) -> str:
        """What lies inside the module, for the error."""
        path = self.source.partition('[')[0]
        names = [f'{path}.{name}' for module in self.place.modules
                 for name, _ in module.named_children()]
        return f', such as {names[-1]!r}' if names else ''

    def _tensors_in(self, value: Any) -> str:
        """Which indices pick a tensor of what the module gives."""
        found = [f"'{self.source}[{i}]'" for i, part in enumerate(value)
                 if isinstance(part, torch.Tensor)] if isinstance(
                     value, (list, tuple)) else []
        return f'; name a tensor in it, {" or ".join(found)}' if found else ''

    def _as_map(self, level: torch.Tensor,
                shape: tuple[int, ...]) -> torch.Tensor:
        """Tokens and vectors as maps."""
        if level.dim() == 3:
            grid = None
            if (self.place.grid is not None and not self.place.queries
                    and shape and len(level) == shape[0]):
                grid = self.place.grid(level.shape[1], shape[2:])
            if grid is not None:
                height, width, first = grid
                return level[:, first:].transpose(1, 2).unflatten(
                    2, (height, width))
            self.place.is_map = False
            return level.transpose(1, 2)[..., None]
        if level.dim() == 2:
            self.place.is_map = False
            return level[:, :, None, None]
        if (level.dim() == 4 and self.place.is_map and shape
                and len(level) == shape[0]
                and is_channels_last(level.shape, shape[2:])):
            return level.permute(0, 3, 1, 2)
        return level


def reach(taps: Collection[Tap], calls: Sequence[Callable[[], Any]]) -> int:
    """Record the first of ``calls`` that gets to its end past every tap.

    A model may not be able to run to its end, and what fails behind the last
    tap does not matter. So where no call gets there, the one in which the
    taps saw most is recorded: a failure between two runs of a module shall
    not pass for the end.

    Args:
        taps (Collection[Tap]): They hold what they saw afterwards.
        calls (Sequence[Callable]): Ways to run the model.

    Returns:
        int: Which of the calls it was.

    Raises:
        Exception: Of the first call, where all fail and none passes every
            tap.
    """
    failures: list[Exception] = []
    seen: list[int] = []
    for number, call in enumerate(calls):
        failure = _record(taps, call)
        seen.append(sum(len(tap.runs) for tap in taps) if all(
            tap.runs for tap in taps) else 0)
        if failure is not None:
            failures.append(failure)
        elif seen[-1]:
            return number
    if not any(seen):
        if len(failures) == len(calls):
            raise failures[0]
        return len(calls) - 1  # the taps will say which of them saw nothing
    best = seen.index(max(seen))
    if best < len(calls) - 1:
        _record(taps, calls[best])
    return best


def _record(taps: Collection[Tap],
            call: Callable[[], Any]) -> Exception | None:
    """Run a call with the taps open; what it raised."""
    for tap in taps:
        tap.open()
    try:
        call()
    except Exception as error:  # of a model: whatever it may raise
        return error
    finally:
        for tap in taps:
            tap.close()
    return None


def _nothing() -> None:
    pass


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else values


def _edge(tensor: torch.Tensor) -> _Edge:
    return _Edge(get_gradient_edge(tensor) if tensor.requires_grad else None)


def _resolve(model: nn.Module, source: str,
             key: str) -> tuple[Place, tuple[int, ...]]:
    """Where to look, and the indices."""
    match = _SOURCE.match(source) if isinstance(source, str) else None
    if match is None:
        raise ConfigError(
            f'{key} = {source!r}: a source is a dotted module path with '
            "optional [i], such as 'backbone[3]', or 'logits' or 'features'")
    indices = tuple(int(i) for i in re.findall(r'-?\d+', match['index']))
    place = host_of(model).place(model, match['path'], f'{key} = {source!r}')
    return place, indices


def _rewritten_around(model: nn.Module, source: str) -> str:
    """The part around ``source`` that a traced graph runs; '' if none."""
    names = source.split('[')[0].split('.')
    outer = ['.'.join(names[:i]) for i in range(1, len(names))]
    modules = dict(model.named_modules())
    for name in filter(modules.__contains__, outer):
        forward = vars(modules[name]).get('forward')
        if isinstance(getattr(forward, '__self__', None), fx.GraphModule):
            return name
    return ''


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _map_tensors(function: Callable, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: _map_tensors(function, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_tensors(function, v) for v in value]
    return value


def _versions(value: Any) -> list[int]:
    return [v._version for v in _flatten(value) if isinstance(v, torch.Tensor)]
