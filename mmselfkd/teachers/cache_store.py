"""What a teacher gave, in files: one for each sample, view and padded size.

A file is written under another name and renamed, so it is whole or not there:
also when a run is killed, and for several processes or machines on one file
system, without a lock or an index. It is read memory-mapped.
"""
import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.structures import BaseDataElement
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

META = 'meta.json'
PER_FOLDER = 1000  # samples
STALE = 3600  # seconds after which a file of another name is left over
_NAME = re.compile(r'(\d+)-(\d+)-(\d+)x(\d+)\.safetensors$')

Size = tuple[int, int]


class Record(NamedTuple):
    """What is stored of one sample in one view.

    Attributes:
        digest (str): Of the pixels that the teacher saw.
        tensors (dict[str, Tensor]): By name.
    """
    digest: str
    tensors: dict[str, torch.Tensor]


class Contents(NamedTuple):
    """What there is in a store.

    Attributes:
        views (set[tuple[int, int]]): The samples in views with a record.
        sizes (Counter): Records by the padded size of their batch.
        bytes (int): Of all files together.
    """
    views: set[tuple[int, int]]
    sizes: Counter
    bytes: int


class CacheStore:
    """The records of a teacher in a folder.

    It holds no open file, so loader workers get a copy.

    Args:
        folder (str | Path): Need not be there yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, view: tuple[int, int], size: Size) -> Path:
        """Of a sample in a view, asked in a batch padded to ``size``."""
        sample, number = view
        return self.folder / f'{sample // PER_FOLDER:04d}' / (
            f'{sample}-{number}-{size[0]}x{size[1]}.safetensors')

    def read(self, view: tuple[int, int], size: Size) -> Record | None:
        """A record; None where there is none, or none that can be read."""
        try:
            with safe_open(self.path(view, size), 'pt') as file:
                return Record(file.metadata()['digest'], {
                    name: file.get_tensor(name) for name in file.keys()})
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, TypeError):  # cut off by a crash
            return None

    def write(self, view: tuple[int, int], size: Size, record: Record,
              room: float = float('inf')) -> int:
        """Store a record, unless its file has more than ``room`` bytes.

        Returns:
            int: Bytes of the file; 0 where it was not stored.

        Raises:
            OSError: No space, or the folder cannot be written.
        """
        content = save(record.tensors, dict(digest=record.digest))
        if len(content) > room:
            return 0
        self._put(self.path(view, size), content)
        return len(content)

    def meta(self) -> dict[str, Any] | None:
        """What was said of all records; None where nothing was yet."""
        try:
            return json.loads((self.folder / META).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Say something of all records.

        Raises:
            OSError: As :meth:`write`.
        """
        self._put(self.folder / META, json.dumps(meta, indent=1).encode())

    def contents(self) -> Contents:
        """Look through the folder, and remove what a killed run left."""
        views: set[tuple[int, int]] = set()
        sizes: Counter = Counter()
        example: dict[Size, os.DirEntry] = {}
        folders = [entry.path for entry in os.scandir(self.folder)
                   if entry.is_dir()] if self.folder.is_dir() else []
        for folder in folders:
            for entry in os.scandir(folder):
                match = _NAME.match(entry.name)
                if match is None:
                    _remove_if_stale(entry)
                    continue
                sample, view, height, width = map(int, match.groups())
                views.add((sample, view))
                sizes[height, width] += 1
                example[height, width] = entry
        # all of a size are alike, and asking each would take long
        return Contents(views, sizes, sum(
            count * example[size].stat().st_size
            for size, count in sizes.items()))

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        other = path.with_name(f'.{secrets.token_hex(8)}')
        try:
            with open(other, 'wb') as file:
                file.write(content)
            os.replace(other, path)
        except BaseException:
            other.unlink(missing_ok=True)
            raise


def _remove_if_stale(entry: os.DirEntry) -> None:
    try:
        if time.time() - entry.stat().st_mtime > STALE:
            os.unlink(entry)
    except OSError:  # another process was first, or the folder is read only
        pass


class Companion:
    """Gives samples what is stored of them, in the worker that loads them.

    It lies in the data sample as an element of its own, which moves with it
    to the student's device.

    Args:
        store (CacheStore): Where it is.
        name (str): Of the element.
        size (tuple[int, int]): The padded size of the batches; of another one
            nothing is known before there is a batch.
    """

    def __init__(self, store: CacheStore, name: str, size: Size) -> None:
        self.store, self.name, self.size = store, name, size

    def __call__(self, sample: Any) -> None:
        record = self.store.read(sample.metainfo['view'], self.size)
        if record is not None:
            sample.set_data({self.name: BaseDataElement(
                metainfo=dict(digest=record.digest, size=self.size),
                **record.tensors)})

    def take(self, sample: Any, size: Size) -> Record | None:
        """What was given to a sample, if it fits into a batch of ``size``."""
        found = sample.get(self.name)
        if found is None or found.size != size:
            return None
        return Record(found.digest, dict(found.items()))
