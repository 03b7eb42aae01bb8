"""Reads checkpoint files without running code that may be in them.

A checkpoint is a pickle, and a pickle may name any function to be called
while it is read. mmengine 0.10.12 reads local files by torch's safe loader
first, but falls back on the unsafe one, and reads URLs by the unsafe one
alone; mmengine 0.10.7 leaves it to torch. Here the unsafe loader is used only
where the caller asks for it.
"""
import contextlib
import os
import os.path as osp
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
import torch.distributed as dist


def load_checkpoint_file(path: str,
                         trust: bool = False,
                         option: str = 'trust_checkpoint=True') -> dict:
    """The content of a checkpoint, on the CPU.

    Tensors, plain data, numbers and arrays of numpy are read as they are. The
    logs of mmengine (``message_hub``) are read as empty objects.

    Args:
        path (str): A file, an ``http(s)://`` URL, which is kept in torch's
            folder for downloads, or what ``mmengine.fileio`` reads, such as
            ``s3://...``.
        trust (bool): Whether a file that cannot be read safely is read by
            running the code in it. Defaults to False.
        option (str): How the user sets ``trust``, for the message.

    Returns:
        dict: The checkpoint.

    Raises:
        ValueError: There is no such file, it is cut off or no checkpoint, or
            reading it would run code and ``trust`` is False. The message
            names the file and, in the last case, the first object that is not
            allowed and ``option``.
    """
    with local_file(path) as file:
        try:
            with _safe_globals():
                loaded = torch.load(file, map_location='cpu',
                                    weights_only=True)
        except Exception as error:  # a broken file makes torch raise anything
            if not isinstance(error, UnpicklingError):
                raise _broken(path, error) from error
            reason = _refusal(error)
            if not trust:
                raise ValueError(
                    f'{path!r} cannot be read safely: {reason}. {option} '
                    'reads it all the same, and runs whatever code is in it: '
                    'only for files whose origin you trust') from error
            warnings.warn(f'{path!r} is not safe to read, but trusted: '
                          f'{reason}', stacklevel=2)
            try:
                loaded = torch.load(file, map_location='cpu',
                                    weights_only=False)
            except Exception as error:
                raise _broken(path, error) from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f'{path!r} holds a {type(loaded).__name__}, not a checkpoint')
    return loaded


def is_whole(path: str) -> bool:
    """Whether a local checkpoint was written to its end.

    The format of torch 1.6 and newer has a table of contents at its end, so
    the file need not be read for that; an older one is.
    """
    with open(path, 'rb') as file:
        if file.read(2) == b'PK':
            return zipfile.is_zipfile(file)
    try:
        load_checkpoint_file(path)
    except ValueError as error:
        return isinstance(error.__cause__, UnpicklingError)
    return True


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration or epoch from which to resume."""

    def age(file: Path) -> tuple[int, int]:
        number = re.search(r'(\d+)\.pth$', file.name)
        return int(number[1]) if number else -1, file.stat().st_mtime_ns

    others = [file for file in folder.glob('*.pth')
              if not file.name.startswith('best_')]  # without the optimizer
    return next((file for file in sorted(others, key=age, reverse=True)
                 if is_whole(str(file))), None)


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """A file on this machine with the content of ``path``."""
    with contextlib.ExitStack() as stack:
        if re.match('https?://', path):
            file = _downloaded(path)
        elif '://' in path:
            from mmengine import fileio  # the rest works with torch alone
            try:
                file = stack.enter_context(fileio.get_local_path(path))
            except Exception as error:  # of any backend
                raise ValueError(f'{path!r} cannot be fetched: '
                                 f'{type(error).__name__}: {error}') from error
        else:
            file = osp.expanduser(path)
            if not osp.isfile(file):
                raise ValueError(f'{path!r}: there is no such file in '
                                 f'{osp.dirname(osp.abspath(file))!r}')
        yield file


def _downloaded(url: str) -> str:
    """The file of a URL, where torch and mmengine keep it too."""
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    file = osp.join(folder, osp.basename(urlparse(url).path))
    together = dist.is_available() and dist.is_initialized()
    for turn in range(2 if together else 1):  # rank 0, then the others
        try:
            if (not together or (dist.get_rank() > 0) == turn
                    ) and not osp.isfile(file):
                os.makedirs(folder, exist_ok=True)
                torch.hub.download_url_to_file(url, file, progress=False)
        except OSError as error:
            raise ValueError(f'{url!r} cannot be downloaded: {error}'
                             ) from error
        finally:
            if together and turn == 0:
                dist.barrier()
    return file


def _broken(path: str, error: Exception) -> ValueError:
    reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    return ValueError(
        f'{path!r} cannot be read, it is cut off or no checkpoint: {reason}')


def _refusal(error: UnpicklingError) -> str:
    """What the safe loader does not allow."""
    cause = error.__context__ or error  # without torch's advice on it
    name = re.search(r'GLOBAL (\S+)', str(cause))
    if name:
        return f'it wants to unpickle {name[1]!r}'
    return f'{type(cause).__name__}: {cause}'.splitlines()[0]


def _safe_globals() -> contextlib.AbstractContextManager:
    """Lets torch's safe loader read what an ordinary checkpoint names.

    These are the logs and dicts of mmengine, and numpy's numbers and arrays.
    The logs name ``getattr`` too, by which a file could reach anything: it
    finds a function here that returns None. torch before 2.5 has no such list
    and refuses more.
    """
    safe_globals = getattr(torch.serialization, 'safe_globals', None)
    if safe_globals is None:
        return contextlib.nullcontext()
    codes = np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?SU'
    found: set[Any] = {type(np.dtype(code)) for code in codes}
    found |= {
        np.ndarray, np.dtype, slice, _HistoryBuffer,
        _named('builtins.getattr', lambda *_: None),
        _named('mmengine.config.config.ConfigDict', dict)
    }
    for array in np.zeros(()), np.float64():
        rebuild: Any = array.__reduce__()[0]
        found |= {  # of numpy 1 and 2, whichever wrote the file
            _named(f'numpy.{core}.multiarray.{rebuild.__name__}', rebuild)
            for core in ('core', '_core')
        }
    return safe_globals(list(found))


class _HistoryBuffer:
    """Stands for mmengine's, in its logs."""


_HistoryBuffer.__module__ = 'mmengine.logging.history_buffer'
_HistoryBuffer.__qualname__ = 'HistoryBuffer'


def _named(name: str, function: Callable) -> Callable:
    """``function`` for the unpickler that meets ``name``."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__, _, stand_in.__name__ = name.rpartition('.')
    stand_in.__qualname__ = stand_in.__name__
    return stand_in
