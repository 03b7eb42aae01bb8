"""A real Runner over a tiny mmseg model and the procedural data.

Tests get these functions as the fixture ``tiny``.
"""
import copy

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler

import mmselfkd  # noqa: F401  (registers the hooks)

DATA_SAMPLERS.register_module('TorchBatches', module=BatchSampler)


def model(width, classes=7, **preprocessor):
    """ResNetV1c-18 and an FCN head with an auxiliary head, plain BN."""
    norm = dict(type='BN', requires_grad=True)
    head = dict(
        type='FCNHead', channels=2 * width, num_convs=1, num_classes=classes,
        norm_cfg=norm, dropout_ratio=0.1,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            dict(
                type='SegDataPreProcessor', size=(32, 32),
                mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                bgr_to_rgb=True), **preprocessor),
        backbone=dict(
            type='ResNetV1c', depth=18, stem_channels=width,
            base_channels=width, strides=(1, 2, 1, 1), norm_cfg=norm),
        decode_head=dict(head, in_channels=8 * width, in_index=3),
        auxiliary_head=dict(head, in_channels=4 * width, in_index=2),
        train_cfg=dict(), test_cfg=dict(mode='whole'))


BN = dict(type='BN', requires_grad=True)
ALL = dict(in_index=[0, 1, 2, 3])
# head -> what it takes of a backbone of some width
HEADS = dict(
    PSPNet=lambda w: dict(
        type='PSPHead', in_channels=8 * w, in_index=3, pool_scales=(1, 2)),
    FCN=lambda w: dict(
        type='FCNHead', in_channels=8 * w, in_index=3, num_convs=1),
    DeepLabV3=lambda w: dict(
        type='ASPPHead', in_channels=8 * w, in_index=3, dilations=(1, 2)),
    DeepLabV3Plus=lambda w: dict(
        type='DepthwiseSeparableASPPHead', in_channels=8 * w, in_index=3,
        dilations=(1, 2), c1_in_channels=w, c1_channels=w // 2),
    UPerNet=lambda w: dict(
        ALL, type='UPerHead', in_channels=[w, 2 * w, 4 * w, 8 * w],
        pool_scales=(1, 2)),
    FPN=lambda w: dict(
        ALL, type='FPNHead', in_channels=[2 * w] * 4,
        feature_strides=[4, 8, 16, 32]),
    OCR=lambda w: dict(
        type='OCRHead', in_channels=8 * w, in_index=3, ocr_channels=w),
    SegFormer=lambda w: dict(
        ALL, type='SegformerHead', in_channels=[w, 2 * w, 4 * w, 8 * w]))


def segmentor(head, width):
    """A small model with this head; the head drops half its channels."""
    cfg = model(width)
    del cfg['auxiliary_head']
    common = dict(
        num_classes=7, channels=2 * width, norm_cfg=BN, dropout_ratio=0.5,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False))
    cfg['decode_head'] = dict(HEADS[head](width), **common)
    if head == 'FPN':
        cfg['neck'] = dict(
            type='FPN', in_channels=[width, 2 * width, 4 * width, 8 * width],
            out_channels=2 * width, num_outs=4)
        cfg['backbone'].update(strides=(1, 2, 2, 2))
    if head == 'OCR':
        cfg.update(
            type='CascadeEncoderDecoder', num_stages=2,
            decode_head=[
                dict(HEADS['FCN'](width), **common), cfg['decode_head']])
    if head == 'SegFormer':
        cfg['backbone'] = dict(
            type='MixVisionTransformer', embed_dims=width,
            num_layers=[1] * 4, num_heads=[1, 2, 4, 8])
    return cfg


def config(work_dir, *hooks, iters=2, width=4, by_epoch=False, **changes):
    """The config of a run that takes about a second."""
    pipeline = [
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
        dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')
    ]
    data = dict(type='mmselfkd.ToySegDataset', size=32, pipeline=pipeline)
    train_cfg = dict(by_epoch=True, max_epochs=iters) if by_epoch else dict(
        type='IterBasedTrainLoop', max_iters=iters, val_interval=10**6)
    cfg = dict(
        default_scope='mmseg',
        work_dir=str(work_dir),
        model=model(width),
        train_dataloader=dict(
            batch_size=2, num_workers=0,
            sampler=dict(
                type='DefaultSampler' if by_epoch else 'InfiniteSampler',
                shuffle=True),
            dataset=dict(data, length=8, split='train')),
        val_dataloader=dict(
            batch_size=2, num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(data, length=4, split='val')),
        val_evaluator=dict(type='IoUMetric'),
        train_cfg=train_cfg,
        val_cfg=dict(),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=[dict(type='PolyLR', power=0.9, by_epoch=by_epoch)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='CheckpointHook', interval=1, by_epoch=by_epoch)),
        custom_hooks=list(hooks),
        randomness=dict(seed=3),
        log_level='WARNING')
    cfg = Config(copy.deepcopy(cfg))
    cfg.merge_from_dict(changes)
    return cfg


def teacher(width=8, checkpoint='random', **kwargs):
    return dict(
        config=dict(model=model(width, **kwargs), default_scope='mmseg'),
        checkpoint=checkpoint)


@TRANSFORMS.register_module()
class IgnoreAllLabels(BaseTransform):
    """Every pixel has the label that does not count."""

    where = slice(None)

    def __init__(self, label=255):
        self.label = label

    def transform(self, results):
        results['gt_seg_map'] = results['gt_seg_map'].astype(np.int64)
        results['gt_seg_map'][self.where] = self.label
        return results


@TRANSFORMS.register_module()
class SomeIgnored(IgnoreAllLabels):
    """A pixel in sixteen has it."""

    where = slice(1, None, 4), slice(1, None, 4)


@TRANSFORMS.register_module()
class BinaryLabels(BaseTransform):

    def transform(self, results):
        results['gt_seg_map'] = results['gt_seg_map'].clip(max=1)
        return results


@TRANSFORMS.register_module()
class Bands(BaseTransform):
    """Images of one, or of up to four channels."""

    seen: list = []

    def __init__(self, count):
        self.count = count

    def transform(self, results):
        image = results['img']
        image = np.concatenate([image, image[..., :1] // 2], 2)
        results['img'] = np.ascontiguousarray(image[..., :self.count])
        Bands.seen.append(results['img'])
        return results


@TRANSFORMS.register_module()
class Brighter(BaseTransform):
    """Each image a little brighter than the one before."""

    def __init__(self):
        self.count = 0

    def transform(self, results):
        self.count += 1
        results['img'] = results['img'] // 2 + np.uint8(self.count)
        return results


_count = 0


def build(cfg):
    """A Runner of its own name: mmengine keeps loggers by name."""
    global _count
    _count += 1
    cfg.experiment_name = f'run{_count}'
    return Runner.from_cfg(cfg)
