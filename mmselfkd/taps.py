"""A tap: one place of a model whose tensors a loss looks at.

A source is a dotted module path (``decode_head.conv_seg``), with ``[i]`` to
pick one of several outputs (``backbone[3]``), or an alias:

- ``logits``: the class scores of the main head before any resize: the output
  of ``conv_seg`` of a segmentor; of the class layer of a dense detection
  head, one level for each level of the neck; of the last stage of an RoI
  head, for the RoIs that the student samples; of the last decoder layer of a
  DETR, for its queries;
- ``features``: in a segmentor or depth estimator what enters that classifier,
  in front of its dropout (the PSP output, the ASPP output, the fused map of
  an FPN or SegFormer head); in a detector what enters its head, the levels of
  the neck;
- ``pyramid``: the levels of a detector's neck, the stages of the backbone of
  another model;
- ``boxes``: what the box layer of a dense or RoI head gives;
- ``depth``: what a depth estimator's ``conv_depth`` gives.

What a tap gives is a list of tensors, the levels:

- a module that gives one tensor gives one level; a tuple, list or dict is
  flattened in its order, so ``neck`` alone is all levels;
- a module that runs several times within one forward (a head shared by the
  levels of an FPN) gives the levels of its runs in their order;
- ``[i]`` picks from what the module returned, or from its runs where there
  are several; ``[i][j]`` goes on inside;
- a module list gives the runs of its members in their order;
- tokens (N, L, C) become a map (N, C, L, 1), vectors (R, C) of RoIs one of
  (R, C, 1, 1);
- only runs within the model's own forward count: what activation
  checkpointing runs again in the backward pass does not.
"""
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .errors import ConfigError
from .heads import Place, find_place

_SOURCE = re.compile(r'^(?P<path>[^\[\]]+)(?P<index>(\[-?\d+\])*)$')


class Tap:
    """Records what passes one place of a model while it is open.

    Args:
        model (nn.Module): The unwrapped model.
        source (str): See the module's docstring.
        key (str): Where the source stands in the config, for the errors.

    Raises:
        ConfigError: The source names no module of the model.
    """

    def __init__(self, model: nn.Module, source: str, key: str) -> None:
        self.source, self.key = source, key
        self.clone = False  # keep a copy: the tensor is changed afterwards
        self.changed = False  # whether what was taken had been changed
        self.expected_runs: int | None = None  # known after a rehearsal
        self.runs: list[tuple[Any, Any]] = []
        self.is_open = False
        self.on_run: Callable[[], None] = _nothing
        self.place, self._indices = _resolve(model, source, key)
        self._rewritten = _rewritten_around(model, source)
        takes_input = self.place.argument is not None
        self._handles = [
            module.register_forward_pre_hook(self._see_input) if takes_input
            else module.register_forward_hook(self._see_output)
            for module in self.place.modules
        ]

    def _see_input(self, module: nn.Module, args: tuple) -> None:
        self._see(args[self.place.argument])

    def _see_output(self, module: nn.Module, args: tuple, out: Any) -> None:
        self._see(out)

    def _see(self, value: Any) -> None:
        if not self.is_open:
            return
        if self.clone:
            value = _map_tensors(torch.clone, value)
        self.runs.append((value, _versions(value)))
        self.on_run()

    def open(self) -> None:
        """Forget what was recorded and record from now on."""
        self.runs = []
        self.is_open = True

    def close(self) -> None:
        """Record no more; what was recorded stays until :meth:`take`."""
        self.is_open = False

    def remove(self) -> None:
        """Take the torch hook off the model."""
        self.close()
        self.runs = []
        for handle in self._handles:
            handle.remove()

    @property
    def is_satisfied(self) -> bool:
        """Whether as many runs were recorded as in the rehearsal."""
        return (self.expected_runs is not None
                and len(self.runs) >= self.expected_runs)

    def take(self) -> list[torch.Tensor]:
        """The recorded levels; the tap forgets them.

        Raises:
            ConfigError: The module did not run, an index is out of range,
                or what it gave holds something else than tensors.
        """
        runs, self.runs = self.runs, []
        where = f'{self.key} = {self.source!r}'
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
                'head itself cannot be tapped: tap a module inside it, such '
                'as `decode_head.conv_seg`, or use the alias '
                "'logits' or 'features'")
        self.changed = any(
            _versions(run) != versions for run, versions in runs)
        value = runs[0][0] if len(runs) == 1 else [run for run, _ in runs]
        if self.place.queries:
            value = self._of_queries(runs[-1][0])
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
        levels = list(_flatten(value))
        for level in levels:
            if not isinstance(level, torch.Tensor):
                raise ConfigError(f'{where}: gives a '
                                  f'{type(level).__name__}, not a tensor')
            if not level.is_floating_point():
                raise ConfigError(f'{where}: gives {level.dtype} values; a '
                                  'loss needs floating point')
        if self.place.is_raw:
            return levels
        if any(level.dim() != 4 for level in levels):
            self.place.is_map = False
        return [_as_map(level) for level in levels]

    def _of_queries(self, value: torch.Tensor) -> torch.Tensor:
        """Of the last decoder layer, without queries made from labels."""
        last = value[-1] if value.dim() == 4 else value
        return last[:, -self.place.queries:]


def _nothing() -> None:
    pass


def _resolve(model: nn.Module, source: str,
             key: str) -> tuple[Place, tuple[int, ...]]:
    """Where to look, and the indices."""
    match = _SOURCE.match(source) if isinstance(source, str) else None
    if match is None:
        raise ConfigError(
            f'{key} = {source!r}: a source is a dotted module path with '
            "optional [i], such as 'backbone[3]', or 'logits' or 'features'")
    indices = tuple(int(i) for i in re.findall(r'-?\d+', match['index']))
    return find_place(model, match['path'], source, key), indices


def _as_map(level: torch.Tensor) -> torch.Tensor:
    """Tokens and vectors as maps."""
    if level.dim() == 3:
        return level.transpose(1, 2)[..., None]
    return level[:, :, None, None] if level.dim() == 2 else level


def _rewritten_around(model: nn.Module, source: str) -> str:
    """The part around ``source`` that a traced graph runs; '' if none."""
    names = source.split('[')[0].split('.')
    outer = ['.'.join(names[:i]) for i in range(1, len(names))]
    modules = dict(model.named_modules())
    for name in outer:
        forward = vars(modules[name]).get('forward')
        if isinstance(getattr(forward, '__self__', None), fx.GraphModule):
            return name
    return ''


def _flatten(value: Any):
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
