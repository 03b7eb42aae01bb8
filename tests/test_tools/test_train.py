import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
import train
from mmengine.registry import RUNNERS

CONFIG = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'


@pytest.fixture
def config_of(monkeypatch):
    """The config that a command line hands to the Runner."""

    def run(*flags):
        built = []
        monkeypatch.setattr(RUNNERS, 'build', lambda cfg: (built.append(cfg),
                                                           Trainable())[1])
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, flags)])
        train.main()
        return built[0]

    return run


class Trainable:

    def train(self):
        pass


def test_defaults(config_of):
    cfg = config_of(CONFIG)
    assert cfg.work_dir == f'work_dirs/{Path(CONFIG).stem}'
    assert cfg.launcher == 'none' and not cfg.resume
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_flags_reach_the_config(config_of, tmp_path):
    cfg = config_of(CONFIG, '--amp', '--work-dir', tmp_path, '--cfg-options',
                    'train_cfg.max_iters=7', 'optim_wrapper.optimizer.lr=0.5')
    assert cfg.work_dir == str(tmp_path)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.train_cfg.max_iters == 7
    assert cfg.optim_wrapper.optimizer.lr == 0.5


def test_resume(config_of, tmp_path):
    latest = config_of(CONFIG, '--resume')
    assert latest.resume and latest.load_from is None
    checkpoint = tmp_path / 'iter_1.pth'
    checkpoint.touch()
    given = config_of(CONFIG, '--resume', checkpoint)
    assert given.resume and given.load_from == str(checkpoint)


def test_amp_refuses_other_wrappers(config_of):
    with pytest.raises(SystemExit, match='--amp.*OptimWrapperDict'):
        config_of(CONFIG, '--amp', '--cfg-options',
                  'optim_wrapper.type=OptimWrapperDict')


@pytest.mark.parametrize('name', [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'])
def test_configs_of_the_hosts(config_of, name):
    cfg = config_of(name)
    assert cfg.default_scope == name.partition('::')[0]
    assert cfg.work_dir == f'work_dirs/{Path(name).stem}'


def test_config_by_path(root):
    path = str(root / 'configs' / 'toy' / Path(CONFIG).name)
    assert train.find_config(path) == path
    assert Path(train.find_config(CONFIG)).resolve() == Path(path)
    found = Path(train.find_config('mmseg::_base_/default_runtime.py'))
    assert Path(mmseg.__file__).parent in found.parents


@pytest.mark.parametrize('name, message', [
    (CONFIG.replace('w8', 'w9'), "no config.*w9.*nearest.*'?fpn_r18-w8_"),
    ('configs/nowhere/a.py', 'no config.*nor any other'),
    ('mmnone::a/b.py', "'mmnone::a/b.py': mmnone is not installed")])
def test_missing_config(name, message):
    with pytest.raises(SystemExit, match=message):
        train.find_config(name)


def test_missing_checkpoint_names_the_nearest(config_of, tmp_path):
    (tmp_path / 'iter_100.pth').touch()
    (tmp_path / 'last_checkpoint').touch()
    with pytest.raises(SystemExit, match='iter_10.pth.*: iter_100.pth'):
        config_of(CONFIG, '--resume', tmp_path / 'iter_10.pth')
    url = 'https://example.org/a.pth'
    assert train.find_checkpoint(url) == url


def test_two_processes_without_a_gpu(root, tmp_path):
    """dist_train.sh, its resumption, and the same losses on every rank."""
    command = [
        root / 'tools' / 'dist_train.sh', CONFIG, 2, '--work-dir', tmp_path,
        '--resume', '--cfg-options', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.length=4', 'val_dataloader.dataset.length=2',
        'default_hooks.logger.interval=1', 'train_cfg.val_interval=2'
    ]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent),
                            os.environ['PATH']])
    for max_iters in (2, 3):
        subprocess.run(
            [str(part) for part in command] +
            [f'train_cfg.max_iters={max_iters}'],
            check=True,
            env={**os.environ, 'PATH': path, 'PORT': str(port)},
            capture_output=True)
        logs = [log.read_text() for log in sorted(tmp_path.glob('*/*.log'))]
        assert len(logs) == max_iters - 1
    assert 'Distributed launcher: pytorch' in logs[0]
    records = [
        json.loads(line) for file in sorted(tmp_path.glob('*/*/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    assert [r['step'] for r in records if 'loss' in r] == [1, 2, 3]
    assert [r['step'] for r in records if 'mIoU' in r] == [2, 3]
    assert (tmp_path / 'iter_3.pth').is_file()
