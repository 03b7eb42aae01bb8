"""The hosts' own tools run their `::` configs with one of our hooks."""
import os
import subprocess
import sys

import mmdet
import mmengine
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import get_installed_path

CONFIG = """
_base_ = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(num_classes=7),
    auxiliary_head=dict(num_classes=7))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
loader = dict(
    _delete_=True, batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmselfkd.ToySegDataset', length=4, size=64,
                 pipeline=pipeline))
train_dataloader = val_dataloader = test_dataloader = loader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
"""
HOOK = """
custom_hooks = [dict(
    type='mmselfkd.NFDHook',
    teacher=dict(
        config=dict(model=dict(
            type='EncoderDecoder',
            backbone=dict(type='ResNetV1c', depth=18),
            decode_head=dict(type='FCNHead', in_channels=512, in_index=3,
                             channels=32, num_classes=7))),
        checkpoint='random'))]
"""

DEPTH = """
_base_ = ['mmseg::_base_/datasets/nyu.py', 'mmseg::_base_/default_runtime.py',
          'mmseg::_base_/schedules/schedule_20k.py']
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
model = dict(
    type='DepthEstimator',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8),
    decode_head=dict(
        type='mmselfkd.DepthHead', in_channels=[8, 16, 32, 64],
        in_index=[0, 1, 2, 3], channels=8),
    test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3),
    dict(type='PackSegInputs')]
loader = dict(
    _delete_=True, batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmselfkd.ToyDepthDataset', length=4, pipeline=pipeline))
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = dict(crop_type=None)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
"""
DEPTH_HOOK = """
custom_hooks = [dict(
    type='mmselfkd.SKDHook',
    teacher=dict(config='depth.py', checkpoint='random'),
    losses=dict(loss_pi=None, loss_ho=dict(source='depth')))]
"""


@pytest.fixture
def run(tmp_path, root):
    """Runs a host's tool in ``tmp_path``; returns what it printed."""
    env = dict(os.environ, PYTHONPATH=str(root), CUDA_VISIBLE_DEVICES='')

    def run(tool, *args, host=mmseg):
        tools = os.path.join(os.path.dirname(host.__file__), '.mim', 'tools')
        done = subprocess.run(
            [sys.executable, os.path.join(tools, tool), *args], env=env,
            cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_stock_train_and_test_tools(run, tmp_path):
    (tmp_path / 'plain.py').write_text(CONFIG)
    (tmp_path / 'ours.py').write_text(CONFIG + HOOK)
    log = run('train.py', 'ours.py', '--work-dir', 'ours')
    assert 'distill.loss_nfd' in log and 'features' in log
    run('train.py', 'plain.py', '--work-dir', 'plain')
    ours, plain = (
        torch.load(tmp_path / name / 'iter_2.pth', weights_only=False)
        for name in ('ours', 'plain'))
    assert list(ours['state_dict']) == list(plain['state_dict'])
    model = MODELS.build(
        Config.fromfile(tmp_path / 'plain.py').model)  # knows nothing of us
    model.load_state_dict(ours['state_dict'], strict=True)
    # validation in training and the stock test of the plain config agree
    told = [
        line.split('mIoU: ')[1].split()[0]
        for line in (log + run('test.py', 'plain.py', 'ours/iter_2.pth')
                     ).splitlines() if 'mIoU: ' in line
    ]
    assert len(told) == 2 and told[0] == told[1]


DETECTION = """
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None,
                  style='pytorch'),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=6, in_channels=32, feat_channels=32,
                   stacked_convs=1))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
        'instances'))]
loader = dict(
    _delete_=True, batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmselfkd.ToyDetDataset', length=4, size=64,
                 pipeline=pipeline))
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = test_evaluator = dict(
    _delete_=True, type='CocoMetric', metric='bbox')
train_cfg = dict(max_epochs=1)
"""
DETECTION_HOOK = """
custom_hooks = [dict(
    type='mmselfkd.SKDHook',
    teacher=dict(config='plain.py', checkpoint='random'))]
"""


def test_stock_mmdet_tools(run, tmp_path):
    (tmp_path / 'plain.py').write_text(DETECTION)
    (tmp_path / 'ours.py').write_text(DETECTION + DETECTION_HOOK)
    log = run('train.py', 'ours.py', '--work-dir', 'ours', host=mmdet)
    assert 'distill.loss_pi' in log and 'distill.loss_ho' in log
    run('train.py', 'plain.py', '--work-dir', 'plain', host=mmdet)
    ours, plain = (
        torch.load(tmp_path / name / 'epoch_1.pth', weights_only=False)
        for name in ('ours', 'plain'))
    assert list(ours['state_dict']) == list(plain['state_dict'])
    model = MODELS.build(dict(
        Config.fromfile(tmp_path / 'plain.py').model, _scope_='mmdet'))
    model.load_state_dict(ours['state_dict'], strict=True)
    told = [
        line.split('bbox_mAP_copypaste: ')[1]
        for line in (log + run('test.py', 'plain.py', 'ours/epoch_1.pth',
                               host=mmdet)).splitlines()
        if 'bbox_mAP_copypaste: ' in line
    ]
    assert len(told) == 2 and told[0] == told[1]


def test_stock_tools_train_and_test_the_depth_head(run, tmp_path):
    (tmp_path / 'depth.py').write_text(DEPTH)
    (tmp_path / 'ours.py').write_text(DEPTH + DEPTH_HOOK)
    log = run('train.py', 'ours.py', '--work-dir', 'ours')
    assert 'distill.loss_pa' in log and 'distill.loss_ho' in log
    model = MODELS.build(dict(
        Config.fromfile(tmp_path / 'depth.py').model, _scope_='mmseg'))
    saved = torch.load(tmp_path / 'ours' / 'iter_2.pth', weights_only=False)
    model.load_state_dict(saved['state_dict'], strict=True)
    log += run('test.py', 'depth.py', 'ours/iter_2.pth')
    told = [line.split('rmse: ')[1].split()[0]
            for line in log.splitlines() if ' rmse: ' in line]
    assert len(told) == 2 and told[0] == told[1] and float(told[0]) > 0


def test_mmseg_is_found_under_whatever_distribution(root):
    """The fallback of `import mmselfkd`, as if only onedl's was there."""
    code = (
        'import importlib.metadata as m\n'
        'real = m.version\n'
        'def version(name):\n'
        '    if name == "mmsegmentation":\n'
        '        raise m.PackageNotFoundError(name)\n'
        '    return real(name)\n'
        'm.version = version\n'
        'import mmselfkd\n'
        'from mmengine.config.utils import MODULE2PACKAGE\n'
        'from mmengine.utils import get_installed_path\n'
        'print(get_installed_path(MODULE2PACKAGE["mmseg"]))\n')
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True,
        env=dict(os.environ, PYTHONPATH=str(root)))
    assert done.stdout.strip() == os.path.dirname(mmseg.__file__), done.stderr
    assert get_installed_path('mmengine') == os.path.dirname(
        mmengine.__file__)
