"""How a forward pass that is not trained may run."""
import contextlib
import inspect
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from ..errors import ConfigError, nearest

PRECISIONS = dict(fp16=torch.float16, bf16=torch.bfloat16)


class Execution:
    """Precision, layout, compiled parts and stream of a teacher's pass.

    Args:
        precision (str, optional): ``'fp16'`` or ``'bf16'``: the pass runs
            under autocast in that type. None: as the run does, float32
            unless the student's is under autocast. Defaults to None.
        channels_last (bool): Whether the pass keeps the channels of a
            position side by side in memory. Defaults to False.
        compile (bool | dict): Whether the parts of the model without a tap
            inside are compiled, in the rehearsal on a batch of full size;
            a dict has the arguments of ``torch.compile``. Defaults to False.
        side_stream (bool): Whether the pass runs in a queue of its own,
            beside the student's. Needs a GPU, and memory for the activations
            of both at a time. Defaults to False.
        key (str): Where these stand in the user's config, for the errors.

    Raises:
        ConfigError: An option has no such value.
    """

    def __init__(self,
                 precision: str | None = None,
                 channels_last: bool = False,
                 compile: bool | dict = False,
                 side_stream: bool = False,
                 key: str = 'teacher') -> None:
        if precision is not None and precision not in tuple(PRECISIONS):
            raise ConfigError(f'{key}.precision = {precision!r}: None or the '
                              'name of a type is needed' +
                              nearest(precision, PRECISIONS))
        for name, value in (('channels_last', channels_last),
                            ('side_stream', side_stream)):
            if not isinstance(value, bool):
                raise ConfigError(
                    f'{key}.{name} = {value!r}: True or False is needed')
        self.precision, self.channels_last = precision, channels_last
        self.compile = _compile_options(compile, f'{key}.compile')
        self.side_stream, self.key = side_stream, key
        self._stream: SideStream | None = None

    def prepare(self, model: nn.Module, device: torch.device,
                waits_for: str | None) -> None:
        """Lay out the model and make its stream.

        Args:
            model (nn.Module): The teacher's model.
            device (torch.device): Of the student.
            waits_for (str, optional): What of the student's forward pass the
                teacher needs, if anything.

        Raises:
            ConfigError: No GPU, or a pass that cannot run beside the
                student's.
        """
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.side_stream:
            return
        where = f'{self.key}.side_stream = True'
        if device.type == 'cpu':
            raise ConfigError(f'{where}: needs a GPU, the student is on a CPU')
        if waits_for is not None:
            raise ConfigError(
                f'{where}: this teacher needs {waits_for!r} of '
                "the student's forward pass and cannot run beside it")
        self._stream = SideStream(device)

    def lay_out(self, inputs: torch.Tensor) -> torch.Tensor:
        """The input in the layout of the model."""
        return inputs.contiguous(memory_format=torch.channels_last
                                 ) if self.channels_last else inputs

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Around each forward pass."""
        with (contextlib.nullcontext() if self.precision is None else
              torch.autocast(device.type, PRECISIONS[self.precision])):
            with (contextlib.nullcontext() if self._stream is None
                  else self._stream.beside()):
                yield

    def join(self) -> None:
        """Wait for the side stream, if there is one."""
        if self._stream is not None:
            self._stream.join()

    def compile_parts(self, model: nn.Module,
                      tapped: Iterable[nn.Module]) -> None:
        """Compile what of the model can be compiled.

        Raises:
            ConfigError: There is no such part.
        """
        parts = untapped_parts(model, tapped)
        if not parts:
            raise ConfigError(
                f'{self.key}.compile = {self.compile!r}: no part of the '
                'teacher is without a tap inside')
        print_log(f'{self.key}: compiling what runs of {", ".join(parts)}; '
                  'this may take minutes', 'current')
        for name, part in parts.items():
            compile_part(part, f'{self.key}.{name}', self.compile or {})

    def describe(self) -> str:
        """The options that are on, for the log."""
        return ''.join((
            f', {self.precision}' if self.precision else '',
            ', channels last' if self.channels_last else '',
            ', compiled' if self.compile is not None else '',
            ', on a side stream' if self.side_stream else ''))


def _compile_options(value: Any, where: str) -> dict[str, Any] | None:
    """The arguments of ``torch.compile``; None for no compiling."""
    if isinstance(value, bool):
        return {} if value else None
    if not isinstance(value, dict):
        raise ConfigError(f'{where} = {value!r}: True, False or a dict of the '
                          'arguments of torch.compile is needed')
    allowed = set(inspect.signature(torch.compile).parameters) - {'model'}
    for name in value:
        if name not in allowed:
            raise ConfigError(f'{where}.{name} = {value[name]!r}: no argument '
                              'of torch.compile' + nearest(name, allowed))
    return dict(value)


def untapped_parts(model: nn.Module, tapped: Iterable[nn.Module]
                   ) -> dict[str, nn.Module]:
    """What of ``model`` can be compiled: the largest parts without a tap.

    A tap may end the forward pass by an exception, which no compiled graph
    can hold, so what contains one stays in Python. A tap on a part itself
    does not matter where only ``forward`` is compiled, since torch hooks
    stand around it. A single layer is no part.

    Args:
        model (nn.Module): Itself no part.
        tapped (iterable): The modules with a tap.

    Returns:
        dict[str, nn.Module]: The parts by name.
    """
    tapped = set(tapped)
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        inside = set(child.modules()) - {child}
        runs = type(child).forward is not nn.Module.forward  # a list does not
        if not runs or inside & tapped:
            parts |= {f'{name}.{deeper}': part for deeper, part
                      in untapped_parts(child, tapped).items()}
        elif inside:
            parts[name] = child
    return parts


def compile_part(part: nn.Module, name: str, options: dict[str, Any]) -> None:
    """Let ``part`` run compiled from its next run on.

    Parts of one class share the code of their ``forward``, and the compiler
    learns by code which sizes vary and when to give up. So each gets a copy.

    Args:
        part (nn.Module): Its ``forward`` is replaced.
        name (str): Of the part, unlike that of any other.
        options (dict): The arguments of ``torch.compile``.
    """
    forward: Any = part.forward
    method = forward.__func__
    code = method.__code__.replace(co_name=f'forward of {name}')
    own = types.FunctionType(code, method.__globals__, method.__name__,
                             method.__defaults__, method.__closure__)
    own.__kwdefaults__ = method.__kwdefaults__
    part.forward = torch.compile(types.MethodType(own, part), **options)


class SideStream:
    """A second queue of a GPU, whose work runs beside that of the first.

    It begins after all that was queued before, and whoever reads what it
    made joins first. So what it allocates and frees is used again in order:
    its own memory only by its next turn, which waits for the readers of this
    one, and what it reads of others only after they have joined.

    Args:
        device (torch.device): Not a CPU, which has no queues.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._backend = getattr(torch, device.type)  # torch.cuda, ...
        self._stream = self._backend.Stream(device)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is started here runs beside what is started afterwards."""
        self._stream.wait_stream(self._backend.current_stream(self._device))
        with self._backend.stream(self._stream):
            yield

    def join(self) -> None:
        """What is started from now on waits for all that ran beside."""
        self._backend.current_stream(self._device).wait_stream(self._stream)
