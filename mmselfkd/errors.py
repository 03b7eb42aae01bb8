"""The error a user's config earns, with what would have been right."""
from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A config value that cannot work.

    The message names the config key, the value and what is allowed; it is
    raised before the first iteration.
    """


def nearest(value: object, allowed: Iterable[str], most: int = 3) -> str:
    """``'; nearest: ...'`` for a misspelt ``value``, else all ``allowed``."""
    allowed = sorted(map(str, allowed))
    close = get_close_matches(str(value), allowed, n=most, cutoff=0.5)
    if close:
        return '; nearest: ' + ', '.join(map(repr, close))
    return '; allowed: ' + (', '.join(map(repr, allowed)) or 'nothing')
