"""A method by one command line, and the config that it leaves behind."""
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import methods
import mmdet
import mmseg
import pytest
import torch
import train
from mmengine.config import Config
from mmengine.registry import HOOKS

from mmselfkd import DistillHook

TOY = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'
BIG = TOY.replace('w8', 'w32')
TEACHER = ['--teacher', BIG, '--teacher-checkpoint', 'random']
NFD = ['--method', 'NFDHook', *TEACHER]


@pytest.fixture
def student(tmp_path):
    """Writes a user's config; returns its path."""

    def write(*lines):
        path = tmp_path / 'mine.py'
        path.write_text('\n'.join([f'_base_ = {TOY!r}', *lines]))
        return path

    return write


def test_the_entry_is_appended(config_of, student, monkeypatch, tmp_path):
    """To hooks and beside imports of the user's own."""
    (tmp_path / 'my_imports.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    mine = student('custom_imports = dict(imports=["my_imports"])',
                   'custom_hooks = [dict(type="EMAHook")]')
    cfg = config_of(mine, *NFD)
    assert 'my_imports' in cfg.custom_imports.imports
    assert cfg.custom_imports == Config.fromfile(mine).custom_imports
    assert cfg.custom_hooks == [dict(type='EMAHook'), dict(
        type='mmselfkd.NFDHook',
        teacher=dict(config=BIG, checkpoint='random'))]
    assert cfg.work_dir == 'work_dirs/nfd_mine'


@pytest.mark.parametrize('hooks', ['', 'custom_hooks = None',
                                   'custom_hooks = []'])
def test_a_config_without_hooks(config_of, student, hooks):
    cfg = config_of(student(hooks), '--method', 'FRSKDHook')
    assert cfg.custom_hooks == [dict(type='mmselfkd.FRSKDHook')]
    assert cfg.work_dir == 'work_dirs/frskd_mine'


def test_a_config_of_each_host(config_of):
    for name in ('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
                 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'):
        cfg = config_of(name, '--method', 'TFDHook')
        assert cfg.custom_hooks == [dict(type='mmselfkd.TFDHook')]
        assert cfg.work_dir == f'work_dirs/tfd_{Path(name).stem}'


def test_options(config_of, student):
    """Of the entry, and by --cfg-options of anything."""
    mine = student('custom_hooks = [dict(type="EMAHook")]')
    cfg = config_of(
        mine, '--method', 'SKDHook', *TEACHER, '--method-options',
        'losses.loss_ho=None', 'losses.loss_pi.loss_weight=5',
        'losses.loss_pi.schedule.type=LinearRamp', 'inherit=neck,decode_head',
        'teacher.precision=bf16', '--cfg-options',
        'custom_hooks.1.losses.loss_pa.loss_weight=3', 'train_cfg.max_iters=7')
    ema, entry = cfg.custom_hooks
    assert ema == dict(type='EMAHook') and cfg.train_cfg.max_iters == 7
    assert entry == dict(
        type='mmselfkd.SKDHook', inherit=['neck', 'decode_head'],
        teacher=dict(config=BIG, checkpoint='random', precision='bf16'),
        losses=dict(
            loss_ho=None, loss_pa=dict(loss_weight=3), loss_pi=dict(
                loss_weight=5, schedule=dict(type='LinearRamp'))))
    HOOKS.build(entry)


def test_a_teacher_by_options(config_of, student):
    entry, = config_of(
        student(), '--method', 'NFDHook', '--method-options',
        'teacher.type=EMATeacher', 'teacher.momentum=0.01').custom_hooks
    assert entry == dict(type='mmselfkd.NFDHook', teacher=dict(
        type='EMATeacher', momentum=0.01))


def test_a_teacher_that_is_trusted(config_of, student, tmp_path):
    (tmp_path / 'w.pth').touch()
    entry, = config_of(student(), '--method', 'NFDHook', '--teacher', BIG,
                       '--teacher-checkpoint', tmp_path / 'w.pth',
                       '--trust-checkpoint').custom_hooks
    assert entry.teacher == dict(
        config=BIG, checkpoint=str(tmp_path / 'w.pth'), trust_checkpoint=True)


def test_work_dir(config_of, student):
    """That of the plain run with the method in front, unless it is given."""
    mine = student('work_dir = "runs/mine/"')
    assert config_of(mine, *NFD).work_dir == 'runs/nfd_mine'
    assert config_of(mine).work_dir == 'runs/mine/'
    assert config_of(mine, *NFD, '--work-dir', 'x').work_dir == 'x'
    assert config_of(
        mine, *NFD, '--cfg-options', 'work_dir=y').work_dir == 'y'


@pytest.mark.parametrize('name, first', [
    ('NFD', 'NFDHook'), ('nfdhook', 'NFDHook'), ('KADTHook', 'KADTDHook'),
    ('EMAHook', None), ('no.such.Hook', None)])
def test_a_wrong_name_lists_the_methods(config_of, student, name, first):
    with pytest.raises(SystemExit) as end:
        config_of(student(), '--method', name)
    said, _, listed = str(end.value).partition('the nearest first, ')
    assert said.startswith(f'--method {name!r}: no such method')
    assert set(listed.split(', ')) == set(methods.methods())
    assert first is None or listed.startswith(f'{first}, ')


@pytest.mark.parametrize('flags, message', [
    (['--method', 'NFDHook'],
     'NFDHook needs a teacher: --teacher CONFIG --teacher-checkpoint'),
    (NFD[:-2], 'teacher.config is given, --teacher-checkpoint FILE is miss'),
    (['--method', 'NFDHook', '--teacher-checkpoint', 'random'],
     'teacher.checkpoint is given, --teacher CONFIG is missing'),
    (['--method', 'NFDHook', '--teacher', BIG.replace('32', '33')],
     'no config .*w33.*nearest in .*fpn_r18-w32_'),
    (NFD[:-1] + ['no/w.pth'], "no checkpoint 'no/w.pth', nor any other in /")])
def test_what_is_missing(config_of, student, flags, message):
    with pytest.raises(SystemExit, match=message):
        config_of(student(), *flags)


@pytest.mark.parametrize('flags', [
    TEACHER[:2], TEACHER[2:], ['--method-options', 'losses.loss_ho=None']])
def test_options_without_a_method(config_of, capsys, flags):
    with pytest.raises(SystemExit):
        config_of(TOY, *flags)
    assert f'{flags[0]} needs --method' in capsys.readouterr().err


def test_a_config_that_distils_already(config_of, student, capsys):
    """Both hooks distil, which is said."""
    mine = student('custom_hooks = [dict(type="EMAHook"), '
                   'dict(type="mmselfkd.TFDHook")]')
    cfg = config_of(mine, '--method', 'FRSKDHook')
    assert [hook.type for hook in cfg.custom_hooks] == [
        'EMAHook', 'mmselfkd.TFDHook', 'mmselfkd.FRSKDHook']
    assert capsys.readouterr().out == (
        '--method FRSKDHook: the config distils already, by mmselfkd.TFDHook; '
        'the run has the losses of both\n')
    config_of(TOY, '--method', 'FRSKDHook')
    assert capsys.readouterr().out == ''


def documented():
    """The command lines with a method in the READMEs of the configs."""
    root = Path(__file__).resolve().parents[2]
    for path in sorted(root.glob('configs/**/README.md')):
        blocks = re.findall(r'```shell\n(.*?)```', path.read_text(), re.DOTALL)
        for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
            if '--method' in line:
                yield shlex.split(line)


@pytest.mark.parametrize('command', list(documented()), ids=' '.join)
def test_documented_commands(config_of, monkeypatch, command):
    monkeypatch.setattr(train, 'find_checkpoint', lambda path: path)
    assert command[:2] == ['python', 'tools/train.py']
    hook = HOOKS.build(config_of(*command[2:]).custom_hooks[-1])
    assert type(hook).__name__ == command[command.index('--method') + 1]


class OwnMethodHook(DistillHook):
    preset_teacher = dict(type='EMATeacher')


def test_a_method_of_the_users_own(config_of):
    HOOKS.register_module(module=OwnMethodHook)
    try:
        cfg = config_of(TOY, '--method', 'OwnMethodHook')
    finally:
        HOOKS.module_dict.pop('OwnMethodHook')
    assert cfg.custom_hooks == [dict(type='OwnMethodHook')]
    assert cfg.work_dir.startswith('work_dirs/ownmethod_')


def test_the_list(capsys, monkeypatch):
    """One line a method, from its docstring."""
    monkeypatch.setattr(sys, 'argv', ['methods.py'])
    methods.main()
    lines = capsys.readouterr().out.splitlines()[2:]
    found = methods.methods()
    assert [line.split()[0] for line in lines] == list(found)
    assert len(found) >= 9 and list(found)[-1] == 'DistillHook'
    for line, hook in zip(lines, found.values()):
        assert line.endswith(hook.__doc__.splitlines()[0])
        own = hook.preset_teacher
        assert line.split()[1] == (f'[{own["type"]}]' if own else '--teacher')


PROJECT = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class MyHook(Hook):

    def after_train(self, runner):
        print('my own hook ran')
"""
SEGMENTOR = """
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'
default_scope = 'mmseg'
custom_imports = dict(imports=['my_project'], allow_failed_imports=False)
custom_hooks = [dict(type='MyHook')]
norm_cfg = dict(type='BN')
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(32, 32)),
    backbone=dict(depth=18, stem_channels={width}, base_channels={width},
                  norm_cfg=norm_cfg),
    decode_head=dict(in_channels={width} * 8, channels=8, num_classes=7,
                     norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels={width} * 4, channels=8, num_classes=7,
                        norm_cfg=norm_cfg))
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmselfkd.ToySegDataset', size=32, length=8, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
randomness = dict(seed=0)
"""
# new style: classes instead of names, no scope, no hooks
DETECTOR = """
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.models import (
    FCOS, FPN, CrossEntropyLoss, DetDataPreprocessor, FCOSHead, FocalLoss,
    IoULoss, ResNet)
from mmdet.models.task_modules import DistancePointBBoxCoder
from torch.optim import SGD

from mmselfkd.datasets import ToyDetDataset

with read_base():
    from .base import *

model = dict(
    type=FCOS,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, stem_channels={width},
                  base_channels={width}, out_indices=(1, 2, 3)),
    neck=dict(type=FPN, in_channels=[{width} * 2, {width} * 4, {width} * 8],
              out_channels={width} * 2, num_outs=3),
    bbox_head=dict(type=FCOSHead, num_classes=6, in_channels={width} * 2,
                   feat_channels=8, stacked_convs=1, strides=[8, 16, 32],
                   regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
                   norm_cfg=None, bbox_coder=dict(type=DistancePointBBoxCoder),
                   loss_cls=dict(type=FocalLoss),
                   loss_bbox=dict(type=IoULoss), loss_centerness=dict(
                       type=CrossEntropyLoss, use_sigmoid=True)))
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=ToyDetDataset, size=64, length=4, pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=LoadAnnotations, with_bbox=True),
        dict(type=PackDetInputs)]))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.001))
default_hooks = dict(logger=dict(type=LoggerHook, interval=1),
                     checkpoint=dict(type=CheckpointHook, interval=1))
randomness = dict(seed=0)
"""
BASE = """
from mmengine.runner import EpochBasedTrainLoop

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, with a teacher that was trained there."""

    def write(text, host):
        monkeypatch.chdir(tmp_path)
        Path('my_project.py').write_text(PROJECT)
        monkeypatch.syspath_prepend(tmp_path)
        Path('configs').mkdir()
        Path('configs/base.py').write_text(BASE)
        for name, width in (('student', 4), ('teacher', 8)):
            Path(f'configs/{name}.py').write_text(
                text.replace('{width}', str(width)))
        from mmengine.registry import MODELS
        cfg = Config.fromfile('configs/teacher.py')
        model = MODELS.build(dict(cfg.model, _scope_=host))
        torch.save(model.state_dict(), 'teacher.pth')

    yield write
    HOOKS.module_dict.pop('MyHook', None)
    sys.modules.pop('my_project', None)


def losses(folder):
    """What a run logged, without the times."""
    file, = Path(folder).glob('*/vis_data/scalars.json')
    return [{key: value for key, value in json.loads(line).items()
             if 'loss' in key} for line in file.read_text().splitlines()]


@pytest.mark.parametrize('text, host', [
    (SEGMENTOR, mmseg), (DETECTOR, mmdet)], ids=['mmseg', 'mmdet, new style'])
def test_the_written_config_runs_under_the_stock_tool(
        project, monkeypatch, root, text, host, capfd):
    """From the same folder, with the same losses; relative paths stay."""
    project(text, host.__name__)
    place = 1 if host is mmseg else 0  # behind the hook of the project
    monkeypatch.setattr(sys, 'argv', [
        'train.py', 'configs/student.py', '--method', 'NFDHook', '--teacher',
        'configs/teacher.py', '--teacher-checkpoint', 'teacher.pth',
        '--cfg-options', f'custom_hooks.{place}.losses.loss_nfd.loss_weight=3'
    ])
    train.main()
    ours = losses('work_dirs/nfd_student')
    assert len(ours) == 2 and all(
        record['distill.loss_nfd'] > 0 for record in ours)
    own = 'my own hook ran' in capfd.readouterr().out
    assert own == (host is mmseg)

    written = Path('work_dirs/nfd_student/student.py')
    entry = Config.fromfile(written).custom_hooks[-1]
    assert entry == dict(
        type='mmselfkd.NFDHook',
        teacher=dict(config='configs/teacher.py', checkpoint='teacher.pth'),
        losses=dict(loss_nfd=dict(loss_weight=3)))
    stock = Path(host.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = subprocess.run(
        [sys.executable, stock, written, '--work-dir', 'stock'],
        env=dict(os.environ, PYTHONPATH=f'{root}:{Path.cwd()}',
                 CUDA_VISIBLE_DEVICES=''), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ('my own hook ran' in done.stdout) == own
    assert losses('stock') == ours


def test_new_style_configs_take_every_flag(project, config_of, monkeypatch):
    project(DETECTOR, 'mmdet')
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    cfg = config_of(
        'configs/student.py', '--method', 'FRSKDHook', '--amp',
        '--cfg-options', 'model.backbone.base_channels=8',
        'custom_hooks.0.losses.loss_at.loss_weight=1')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.model.backbone.base_channels == 8
    assert cfg.custom_hooks == [dict(
        type='mmselfkd.FRSKDHook',
        losses=dict(loss_at=dict(loss_weight=1)))]
    assert train.host_of(cfg) == 'mmdet'
    cfg.dump('dumped.py')
    assert train.host_of(Config.fromfile('dumped.py')) == 'mmdet'
