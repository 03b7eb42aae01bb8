"""What `cache` of a teacher says, and bytes for people."""
import dataclasses
import re
from typing import Any

from ..checks import check_choice, check_integer_or_none, is_integer
from ..errors import ConfigError, config_errors, nearest

UNITS = dict(B=1, KB=10**3, MB=10**6, GB=10**9, TB=10**12)


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """What ``cache`` of a teacher says.

    Attributes:
        dir (str): The folder of all caches.
        limit (str | int | None): The most that this one may take in there, in
            bytes or such as ``'20GB'``; None: no limit.
        precision (str): ``'fp16'``: what has more bits is rounded;
            ``'fp32'``: nothing is.
        top_k (int | None): How many of the class scores of a softmax are
            kept, with the mass of the others (``cache_packing.py``);
            None: all.
    """
    dir: str
    limit: Any = '20GB'
    precision: str = 'fp16'
    top_k: int | None = None

    @classmethod
    def of(cls, cache: Any, key: str) -> 'CacheOptions':
        """Those that a config gives.

        Raises:
            ConfigError: A key or a value that there is not.
        """
        if not isinstance(cache, dict) or not isinstance(
                cache.get('dir'), str) or not cache['dir']:
            raise ConfigError(f'{key} = {cache!r}: dict(dir=...) is needed, '
                              'the folder of the answers')
        names = [field.name for field in dataclasses.fields(cls)]
        for name in cache:
            if name not in names:
                raise ConfigError(f'{key}.{name} = {cache[name]!r}: no such '
                                  'option' + nearest(name, names))
        options = cls(**cache)
        with config_errors():
            check_choice(f'{key}.precision', options.precision,
                         ('fp16', 'fp32'))
            check_integer_or_none(f'{key}.top_k', options.top_k, 1)
        return dataclasses.replace(options, limit=parse_bytes(
            options.limit, f'{key}.limit'))


def readable(count: float) -> str:
    """Bytes for people.

    Example:
        >>> readable(1_234_567)
        '1.2 MB'
        >>> readable(12)
        '12 B'
    """
    name = next((name for name, unit in reversed(UNITS.items())
                 if count >= unit), 'B')
    return f'{count / UNITS[name]:.3g} {name}' if name == 'B' else (
        f'{count / UNITS[name]:.1f} {name}')


def parse_bytes(value: Any, key: str) -> int | None:
    """A limit in bytes.

    Raises:
        ConfigError: It is none.

    Example:
        >>> parse_bytes('1.5GB', 'cache.limit')
        1500000000
    """
    if value is None:
        return None
    match = re.fullmatch(r'\s*([\d.]+)\s*([KMGT]?B)\s*', value, re.I
                         ) if isinstance(value, str) else None
    try:
        if match:
            value = int(float(match[1]) * UNITS[match[2].upper()])
    except ValueError:
        pass
    if not is_integer(value) or value < 1:
        raise ConfigError(f"{key} = {value!r}: bytes, such as '20GB', '500MB' "
                          'or 10**9, or None for no limit')
    return value
