"""How fast answers of a teacher are stored and read, by engine.

The same records go through a file of safetensors each (what CacheStore does),
a database of LMDB (as mmcv keeps images) and a file of torch.save each, in
turn. Needs lmdb (pip install lmdb).
"""
import os
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import numpy as np
import tools_path  # noqa: F401
import torch
from measuring import machine, make_parser, milliseconds, table, told, write
from safetensors.torch import load, save

from mmselfkd.teachers.cache_store import CacheStore, Record

# what a teacher gives for an image, in fp16
KINDS = {
    'logits 1/8, 19x64x128': [(19, 64, 128)],
    'logits 1/4, 19x128x256': [(19, 128, 256)],
    'neck, 256 channels of 800x1088': [
        (256, -(-800 // s), -(-1088 // s)) for s in (8, 16, 32, 64, 128)]}
HEADER = ('record', 'engine', 'MB', 'write ms', 'read ms', 'read ms, evicted')
CPU = torch.device('cpu')


class Files:
    """CacheStore itself."""

    name = 'safetensors, a file each'

    def __init__(self, folder):
        self.folder, self.store = folder, CacheStore(folder)

    def write(self, key, tensors):
        self.store.write((key, 0), (1, 1), Record('0' * 16, tensors))

    def read(self, key):
        return self.store.read((key, 0), (1, 1)).tensors


class Database(Files):
    """One transaction a record, so that a kill loses no more than one."""

    name = 'LMDB'

    def __init__(self, folder):
        self.folder = folder
        self.database = lmdb.open(str(folder), map_size=2**34)

    def write(self, key, tensors):
        with self.database.begin(write=True) as work:
            work.put(str(key).encode(), save(tensors))

    def read(self, key):
        with self.database.begin(buffers=True) as work:
            return load(bytes(work.get(str(key).encode())))


class Pickles(Files):
    """What torch itself offers."""

    name = 'torch.save, a file each'

    def write(self, key, tensors):
        content = BytesIO()
        torch.save(tensors, content)
        self.store._put(self.folder / f'{key}.pt', content.getvalue())

    def read(self, key):
        return torch.load(self.folder / f'{key}.pt', mmap=True,
                          weights_only=True)


def consume(engine, key):
    """Read, and copy as a batch does."""
    return [x.clone() for x in engine.read(key).values()]


def evict(folder):
    """Let the system forget what it holds of the files, as far as it does."""
    os.sync()
    for path in folder.rglob('*'):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def rows(kind, shapes, count, cpu_time):
    """A row for each engine, whose turns are mixed."""
    values = {str(i): torch.randn(shape).half()
              for i, shape in enumerate(shapes)}
    with TemporaryDirectory() as folder:
        engines = []
        for number, cls in enumerate((Files, Database, Pickles)):
            path = Path(folder) / str(number)
            path.mkdir()
            engines.append(cls(path))
        times = {engine: ([], [], []) for engine in engines}
        for phase, work in enumerate(('write', 'read', 'read')):
            if phase == 2:
                for engine in engines:
                    evict(engine.folder)
            for key in range(count):
                for engine in engines:
                    action = (partial(engine.write, key, values)
                              if work == 'write' else
                              partial(consume, engine, key))
                    times[engine][phase].append(milliseconds(
                        action, CPU, cpu_time))
        for engine in engines:
            size = sum(path.stat().st_blocks * 512 for path in
                       engine.folder.rglob('*') if path.is_file()) / count
            yield (kind, engine.name, f'{size / 1e6:.2f}', *(
                told(np.array(one), 2) for one in times[engine]))


def main():
    parser = make_parser(__doc__, rounds=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for kind, shapes in KINDS.items()
             for row in rows(kind, shapes, args.iters, args.cpu_time)]
    write('\n'.join([
        machine(CPU, f'{args.iters} records', 'CPU time' if args.cpu_time
                else 'wall time', args.device_note), '',
        table(HEADER, found)]), args.out)


if __name__ == '__main__':
    main()
