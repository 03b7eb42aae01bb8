"""Files of answers: whole or not there, and nothing else is needed."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mmselfkd.teachers.cache_store import STALE, CacheStore, Record

ONE = Record('abc', {'neck[0]/0': torch.arange(6.).view(2, 3),
                     'logits/0.classes': torch.zeros(2, dtype=torch.uint8)})
SIZE = (32, 64)


def test_what_was_written_is_read(tmp_path):
    store = CacheStore(tmp_path / 'not' / 'there')
    assert store.read((3, 1), SIZE) is None and store.meta() is None
    written = store.write((3, 1), SIZE, ONE)
    store.write((1234567, 0), (8, 8), ONE)
    found = store.read((3, 1), SIZE)
    assert found.digest == 'abc'
    assert all(torch.equal(found.tensors[k], v) for k, v in
               ONE.tensors.items())
    assert store.read((3, 0), SIZE) is store.read((3, 1), (64, 32)) is None
    store.write_meta(dict(a=[1]))
    assert store.meta() == dict(a=[1])
    contents = store.contents()
    assert contents.views == {(3, 1), (1234567, 0)}
    assert contents.sizes == {SIZE: 1, (8, 8): 1}
    assert contents.bytes == 2 * written


def test_no_more_than_there_is_room_for(tmp_path):
    store = CacheStore(tmp_path)
    assert store.write((0, 0), SIZE, ONE, room=100) == 0
    assert not list(tmp_path.rglob('*.safetensors'))
    length = store.write((0, 0), SIZE, ONE, room=10**4)
    assert store.write((0, 0), SIZE, ONE, room=length) == length


@pytest.mark.parametrize('keep', [0, 5, 60, -1])
def test_a_file_that_was_cut_off_counts_as_none(tmp_path, keep):
    store = CacheStore(tmp_path)
    store.write((0, 0), SIZE, ONE)
    path = store.path((0, 0), SIZE)
    path.write_bytes(path.read_bytes()[:keep])
    assert store.read((0, 0), SIZE) is None
    store.write((0, 0), SIZE, ONE)
    assert store.read((0, 0), SIZE).digest == 'abc'


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    store = CacheStore(tmp_path)
    monkeypatch.setattr(os, 'replace', lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.write((0, 0), SIZE, ONE)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_a_reader_keeps_what_is_replaced_under_it(tmp_path):
    store = CacheStore(tmp_path)
    store.write((0, 0), SIZE, ONE)
    found = store.read((0, 0), SIZE)
    store.write((0, 0), SIZE, Record('new', {'a': torch.ones(9)}))
    assert torch.equal(found.tensors['neck[0]/0'], ONE.tensors['neck[0]/0'])
    assert store.read((0, 0), SIZE).digest == 'new'


WRITER = """
import sys, torch
from mmselfkd.teachers.cache_store import CacheStore, Record
store, rank = CacheStore(sys.argv[1]), int(sys.argv[2])
number = 0
while True:
    value = torch.full((300, 300), float(number % 50))
    store.write((number % 50, 0), (1, 1), Record(
        str(number % 50), {'a': value}))
    number += 1
    if number == 50:
        print('once', flush=True)
"""


def test_two_writers_of_the_same_files_that_are_killed(tmp_path):
    """At any time each file is whole, and some temporary ones are left."""
    writers = [subprocess.Popen(
        [sys.executable, '-c', WRITER, str(tmp_path), str(rank)],
        stdout=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == 'once\n'
        store = CacheStore(tmp_path)
        for _ in range(4):
            for sample in range(50):
                found = store.read((sample, 0), (1, 1))
                assert (found.tensors['a'] == int(found.digest)).all()
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    assert all(store.read((i, 0), (1, 1)).digest == str(i) for i in range(50))


def test_what_a_killed_run_left_is_removed_later(tmp_path):
    store = CacheStore(tmp_path)
    store.write((0, 0), SIZE, ONE)
    left = [store.path((0, 0), SIZE).with_name(f'.{i}') for i in range(2)]
    for path in left:
        path.write_bytes(b'half')
    long_ago = time.time() - 2 * STALE
    os.utime(left[0], (long_ago, long_ago))
    assert store.contents().views == {(0, 0)}
    assert [path.exists() for path in left] == [False, True]
