"""Checks of arguments.

Each raises a ValueError that gives the name of the argument, its value and
what is allowed. The name may be a whole config key.
"""
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

# Beyond these a number, its square or its inverse is 0 or inf in float32.
LEAST, MOST = 1e-12, 1e12


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_positive(name: str,
                   value: Any,
                   least: float = LEAST,
                   most: float = MOST) -> None:
    """Check that ``value`` is a number above 0, from ``least`` to ``most``."""
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f'{name} must be a finite number above 0, from '
                         f'{least:g} to {most:g}, but got {value!r}')


def check_not_negative(name: str,
                       value: Any,
                       least: float = 0,
                       most: float = MOST) -> None:
    """Check that ``value`` is a number from ``least`` to ``most``."""
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f'{name} must be a finite number of {least:g} or '
                         f'more, at most {most:g}, but got {value!r}')


def check_integer(name: str, value: Any, minimum: int | None = None) -> None:
    """Check that ``value`` is an integer, not below ``minimum``."""
    if not is_integer(value) or minimum is not None and value < minimum:
        raise ValueError(f'{name} must be an integer{_from(minimum)}, '
                         f'but got {value!r}')


def check_integer_or_none(name: str,
                          value: Any,
                          minimum: int | None = None) -> None:
    """Check that ``value`` is None or an integer, not below ``minimum``."""
    if value is None or is_integer(value) and (
            minimum is None or value >= minimum):
        return
    raise ValueError(f'{name} must be None or an integer{_from(minimum)}, '
                     f'but got {value!r}')


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Check that ``value`` is one of the ``choices``."""
    if value not in choices:
        allowed = ', '.join(map(repr, choices))
        raise ValueError(f'{name} must be one of {allowed}, but got {value!r}')


def check_bool(name: str, value: Any) -> None:
    """Check that ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, but got {value!r}')


def _from(minimum: int | None) -> str:
    return '' if minimum is None else f' of {minimum} or more'
