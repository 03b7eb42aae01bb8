"""Libraries of pretrained models that are there only where installed."""
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError


def import_library(name: str, key: str) -> Any:
    """A module of an optional dependency.

    Args:
        name (str): Such as ``'timm'``, which is the extra of this package
            that installs it too.
        key (str): Of the teacher that needs it.

    Raises:
        ConfigError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'{key}.type: needs {name}, and {error.name} is not installed; '
            f"pip install 'mmselfkd[{name}]'") from error
    except Exception as error:  # such as of a torchvision for another torch
        raise ConfigError(
            f'{key}.type: {name} cannot be imported: {type(error).__name__}: '
            f'{error}; do the versions of torch and torchvision belong '
            'together?') from error


@contextmanager
def blamed_on_library(where: str) -> Iterator[None]:
    """Raise a :class:`ConfigError` for whatever the library raises inside.

    It may look for files, ask a hub, build any model and load its weights.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = inspect.cleandoc(str(error))
        raise ConfigError(
            f'{where}: {type(error).__name__}: {said}') from error
