"""Errors of a config, with what would have been right."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = ['ConfigError']

# what people write who come from other projects: what it is called here
SYNONYMS = dict(pretrained='checkpoint', ckpt='checkpoint',
                load_from='checkpoint', tau='temperature', T='temperature',
                alpha='loss_weight', lambda_kd='loss_weight',
                weight='loss_weight')


class ConfigError(ValueError):
    """A config value that cannot work.

    The message names the config key, the value and what is allowed; it is
    raised before the first iteration.
    """


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise a :class:`ConfigError` for each ValueError inside."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def describe(error: Exception) -> str:
    """Its message, with its name where that says more."""
    is_plain = isinstance(error, (ValueError, TypeError))
    return str(error) if is_plain else f'{type(error).__name__}: {error}'


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """Raise a :class:`ConfigError` with ``key`` for whatever fails inside.

    A user's own part may raise anything. What is no ValueError or TypeError
    keeps its name in the message.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f'{key}: {describe(error)}') from error


def nearest(value: object, allowed: Iterable[str], most: int = 3,
            examples: Iterable[str] | None = None) -> str:
    """``'; nearest: ...'`` for a misspelt ``value``, else all ``allowed``.

    Args:
        value (object): What is not allowed.
        allowed (Iterable[str]): What is.
        most (int): How many of the nearest are named.
        examples (Iterable[str], optional): Named in place of all, where none
            is near.
    """
    allowed = sorted(map(str, allowed))
    if SYNONYMS.get(str(value)) in allowed:
        return f'; nearest: {SYNONYMS[str(value)]!r}'
    close = get_close_matches(str(value), allowed, n=most, cutoff=0.5)
    if close:
        return '; nearest: ' + ', '.join(map(repr, close))
    shown = allowed if examples is None else list(examples)
    return '; allowed: ' + (', '.join(map(repr, shown)) or 'nothing') + (
        '' if examples is None else ' and the modules inside')
