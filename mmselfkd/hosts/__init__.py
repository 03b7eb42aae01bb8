"""The projects whose models are distilled, one file each.

Asked for a model, the newest registered host that owns it answers.
"""
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .heads import (
    HeadSpec,
    find_head_spec,
    preserved_heads,
    register_head,
)
from .host import Host, PixelLoss, Refinement
from .mmdet import MMDetHost
from .mmseg import MMSegHost
from .places import InputFormat, Place, Reading, attribute, watched_modules

__all__ = [
    'HeadSpec', 'Host', 'InputFormat', 'PixelLoss', 'Place', 'Reading',
    'Refinement', 'attribute', 'find_head_spec', 'host_of', 'register_head',
    'register_host', 'temporary_registrations', 'watched_modules'
]

_HOSTS: list[Host] = [Host(), MMSegHost(), MMDetHost()]


def register_host(cls: type[Host]) -> type[Host]:
    """Ask an object of this class first whether it owns a model."""
    _HOSTS.append(cls())
    return cls


def host_of(model: nn.Module) -> Host:
    """The host of a model."""
    return next(host for host in reversed(_HOSTS) if host.owns(model))


@contextmanager
def temporary_registrations() -> Iterator[None]:
    """Forget at the end which hosts and heads were registered inside.

    For tests and notebooks, where a registration shall not stay.
    """
    hosts = list(_HOSTS)
    try:
        with preserved_heads():
            yield
    finally:
        _HOSTS[:] = hosts
