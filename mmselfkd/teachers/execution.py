"""How a forward pass that is not trained may run: compiled, beside another."""
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
    tapped, parts = set(tapped), {}
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
    method = part.forward.__func__
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
