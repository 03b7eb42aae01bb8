"""A real Runner over a tiny mmseg model and the procedural data.

Tests get these functions as the fixture ``tiny``.
"""
import copy

from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

import mmselfkd  # noqa: F401  (registers the hooks)


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

    def transform(self, results):
        results['gt_seg_map'][:] = 255
        return results


@TRANSFORMS.register_module()
class BinaryLabels(BaseTransform):

    def transform(self, results):
        results['gt_seg_map'] = results['gt_seg_map'].clip(max=1)
        return results


_count = 0


def build(cfg):
    """A Runner of its own name: mmengine keeps loggers by name."""
    global _count
    _count += 1
    cfg.experiment_name = f'run{_count}'
    return Runner.from_cfg(cfg)
