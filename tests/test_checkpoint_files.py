"""Files of strangers, broken files, and what mmengine itself saves."""
import http.server
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmselfkd.checkpoint_files import is_whole, load_checkpoint_file

WEIGHTS = dict(state_dict={'w': torch.arange(3.)})


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder), )


@pytest.fixture
def saved(tmp_path):
    """Saves what it is given; returns the path."""

    def save(content, name='a.pth', **kwargs):
        torch.save(content, tmp_path / name, **kwargs)
        return str(tmp_path / name)

    return save


@pytest.fixture(params=[True, False], ids=['zip', 'before torch 1.6'])
def zipped(request):
    return request.param


def same(one, other):
    """Equal, tensors bit for bit; the logs of mmengine aside."""
    if isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(other, dict):
        return list(one) == list(other) and all(
            same(one[key], other[key]) for key in other)
    if isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(other, HistoryBuffer) or one == other


def test_what_a_run_saves(tiny, tmp_path):
    """Optimizer, schedules, logs, the average and what is trained along."""
    tiny.build(tiny.config(
        tmp_path, dict(type='EMAHook'),
        dict(type='mmselfkd.SKDHook', teacher=tiny.teacher()))).train()
    path = str(tmp_path / 'iter_2.pth')
    loaded = load_checkpoint_file(path)
    expected = torch.load(path, weights_only=False)
    assert {'message_hub', 'optimizer', 'ema_state_dict', 'mmselfkd'} < set(
        expected)
    logs = expected['message_hub']['log_scalars']
    assert any(isinstance(log, HistoryBuffer) for log in logs.values())
    assert same(loaded, expected)
    assert is_whole(path)


def test_numbers_of_numpy_and_dicts_of_mmengine(saved):
    meta = dict(best=np.float64(0.5), palette=np.arange(6).reshape(2, 3),
                flag=np.bool_(True), names=np.array(['a', 'b']),
                dataset_meta=ConfigDict(classes=('a', ), more=dict(x=1)),
                part=slice(0, 2))
    loaded = load_checkpoint_file(saved(dict(meta=meta)))['meta']
    assert loaded['best'] == 0.5 and loaded['flag']
    assert np.array_equal(loaded['palette'], meta['palette'])
    assert loaded['names'].tolist() == ['a', 'b']
    assert loaded['dataset_meta'] == dict(classes=('a', ), more=dict(x=1))
    assert loaded['part'] == slice(0, 2)


def test_nothing_is_executed(tmp_path, saved, zipped):
    victim = tmp_path / 'victim'
    path = saved(dict(WEIGHTS, meta=dict(a=Attack(victim))),
                 _use_new_zipfile_serialization=zipped)
    name = f'{os.mkdir.__module__}.mkdir'
    with pytest.raises(ValueError, match='trust_checkpoint=True') as error:
        load_checkpoint_file(path)
    assert f'wants to unpickle {name!r}' in str(error.value)
    assert repr(path) in str(error.value)
    with pytest.raises(ValueError, match='safely.*--an-option reads it'):
        load_checkpoint_file(path, option='--an-option')
    assert not victim.exists()

    with pytest.warns(UserWarning, match=f'but trusted.*{name}'):
        loaded = load_checkpoint_file(path, trust=True)
    assert victim.exists() and same(loaded['state_dict'],
                                    WEIGHTS['state_dict'])


def test_what_the_logs_name_reaches_nothing(saved):
    """They name `getattr`; here it gives None, so nothing can be called."""

    class Reach:

        def __reduce__(self):
            return getattr, (HistoryBuffer, 'update')

    before = set(torch.serialization.get_safe_globals())
    assert load_checkpoint_file(saved(dict(a=Reach()))) == dict(a=None)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_file_that_is_cut_off(saved, zipped):
    path = saved(dict(WEIGHTS, more=torch.ones(5000)),
                 _use_new_zipfile_serialization=zipped)
    whole = open(path, 'rb').read()
    assert is_whole(path)
    for share in (0, 0.1, 0.5, 0.99):
        with open(path, 'wb') as file:
            file.write(whole[:int(share * len(whole))])
        assert not is_whole(path)
        with pytest.raises(ValueError, match='a.pth.*is cut off') as error:
            load_checkpoint_file(path)
        assert '\n' not in str(error.value)
        with pytest.raises(ValueError, match='is cut off'):
            load_checkpoint_file(path, trust=True)


def test_what_is_no_checkpoint(tmp_path, saved, monkeypatch):
    with pytest.raises(ValueError, match='holds a list, not a checkpoint'):
        load_checkpoint_file(saved([1]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"'b.pth'.*no such file.*{tmp_path}"):
        load_checkpoint_file('b.pth')
    monkeypatch.setenv('HOME', str(tmp_path))
    path = saved(WEIGHTS)
    assert same(load_checkpoint_file('~/a.pth'), load_checkpoint_file(path))
    with pytest.raises(ValueError, match="'nowhere://a.pth' cannot be fetch"):
        load_checkpoint_file('nowhere://a.pth')


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves ``tmp_path / 'web'``; returns its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):

        def log_message(self, *args):
            pass

    (tmp_path / 'web').mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0),
            partial(Handler, directory=str(tmp_path / 'web'))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}'
        web.shutdown()


def test_two_processes_download_once(tmp_path, saved, server, two_processes):
    """And neither waits for ever where there is nothing to download."""
    saved(WEIGHTS, 'web/a.pth')
    two_processes(f"""
import sys
import torch
import torch.distributed as dist
from mmselfkd.checkpoint_files import load_checkpoint_file

rank, store = sys.argv[1:]
torch.hub._hub_dir = {str(tmp_path / 'hub')!r}
downloads = []
download = torch.hub.download_url_to_file
torch.hub.download_url_to_file = lambda *args, **kwargs: (
    downloads.append(args), download(*args, **kwargs))
dist.init_process_group('gloo', init_method='file://' + store,
                        rank=int(rank), world_size=2)
assert list(load_checkpoint_file({server + '/a.pth'!r})) == ['state_dict']
assert len(downloads) == (rank == '0')
try:
    load_checkpoint_file({server + '/b.pth'!r})
except ValueError as error:
    assert '404' in str(error)
else:
    raise AssertionError
dist.barrier()
""")


def test_urls(tmp_path, saved, server):
    """Kept where torch keeps them; as safe as files."""
    saved(WEIGHTS, 'web/a.pth')
    saved(Attack(tmp_path / 'victim'), 'web/b.pth')
    assert same(load_checkpoint_file(f'{server}/a.pth'), WEIGHTS)
    (tmp_path / 'web' / 'a.pth').unlink()
    assert (tmp_path / 'hub' / 'checkpoints' / 'a.pth').is_file()
    assert same(load_checkpoint_file(f'{server}/a.pth?more'), WEIGHTS)
    with pytest.raises(ValueError, match='b.pth.*cannot be read safely'):
        load_checkpoint_file(f'{server}/b.pth')
    assert not (tmp_path / 'victim').exists()
    with pytest.raises(ValueError, match='c.pth.*cannot be downloaded.*404'):
        load_checkpoint_file(f'{server}/c.pth')
