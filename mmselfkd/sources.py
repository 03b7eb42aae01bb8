"""The sources of a loss and whose they are: ``'neck'``, ``'teacher:neck'``."""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from .errors import ConfigError, nearest

Levels = list[torch.Tensor]
Key = TypeVar('Key')
STUDENT = 'student'  # the owner of a source that is no teacher


class Source(NamedTuple):
    """One place to look at.

    Attributes:
        owner (str): :data:`STUDENT` or the name of a teacher.
        path (str): What the place is called there, such as ``'neck[0]'``.
    """
    owner: str
    path: str


def parse_source(source: Any, key: str, teachers: Sequence[str]
                 ) -> tuple[list[Source], list[Source]]:
    """Where the student's and where the teacher's side looks.

    Args:
        source (str | list[str] | dict): For both, or for each of them.
        key (str): Where ``source`` stands in the config, for the errors.
        teachers (Sequence[str]): Names of the teachers there are.

    Raises:
        ConfigError: No string, no such teacher, or another key.
    """
    if isinstance(source, dict):
        if set(source) != {'student', 'teacher'}:
            raise ConfigError(f'{key} = {source!r}: a dict needs exactly the '
                              "keys 'student' and 'teacher'")
        student, teacher = source['student'], source['teacher']
    else:
        student = teacher = source
    return (owned_sources(student, STUDENT, key, teachers),
            owned_sources(teacher, teachers[0], key, teachers))


def owned_sources(source: Any, owner: str, key: str,
                  teachers: Sequence[str]) -> list[Source]:
    """Sources with their owner.

    Args:
        source (str | list[str]): ``'neck'`` or ``'teacher:neck'``.
        owner (str): Where none is named.
        key (str): Where ``source`` stands in the config, for the errors.
        teachers (Sequence[str]): Names that may be an owner.

    Raises:
        ConfigError: No string, or no such teacher.
    """
    sources = []
    for item in as_list(source, key):
        name, colon, rest = item.partition(':')
        if not colon and owner != STUDENT and len(teachers) > 1:
            raise ConfigError(
                f'{key} = {item!r}: there are several teachers; write '
                f"'<name>:{item}' with one of {list(teachers)}")
        if colon and name not in teachers:
            raise ConfigError(f'{key} = {item!r}: no teacher {name!r}' +
                              nearest(name, teachers))
        sources.append(Source(name, rest) if colon else Source(owner, item))
    return sources


def as_list(source: Any, key: str) -> list[str]:
    """One source or several as a list.

    Raises:
        ConfigError: It is neither.
    """
    items = [source] if isinstance(source, str) else source
    if (not isinstance(items, (list, tuple)) or not items
            or not all(isinstance(item, str) for item in items)):
        raise ConfigError(f'{key} = {source!r}: a string or a list of '
                          'strings is needed')
    return list(items)


def gather(sources: Sequence[Key],
           levels: Mapping[Key, Levels]) -> Levels:
    """The levels of several sources, one after the other."""
    return [level for source in sources for level in levels[source]]
