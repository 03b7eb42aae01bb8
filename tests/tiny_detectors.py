"""The detectors of mmdet, shrunk, on the procedural scenes.

Tests get these functions as the fixture ``detectors``.
"""
import copy

import tiny_runs
from mmcv.transforms import BaseTransform
from mmdet.models import FCOSHead
from mmengine.config import Config, ConfigDict
from mmengine.registry import TRANSFORMS
from torch import nn

from mmselfkd.registry import MODELS

CONFIGS = dict(
    retinanet='retinanet/retinanet_r50_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    atss='atss/atss_r50_fpn_1x_coco.py',
    gfl='gfl/gfl_r50_fpn_1x_coco.py',
    yolox='yolox/yolox_tiny_8xb8-300e_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    faster='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    cascade='cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    mask='mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    detr='detr/detr_r50_8xb2-150e_coco.py',
    deformable='deformable_detr/deformable-detr_r50_16xb2-50e_coco.py')

SMALL = dict(
    in_channels={256: 32, 1024: 32, 2048: 64,
                 (256, 512, 1024, 2048): [8, 16, 32, 64],
                 (512, 1024, 2048): [16, 32, 64]},
    out_channels={256: 32}, feat_channels={256: 32},
    conv_out_channels={256: 8},
    fc_out_channels={1024: 16}, num_classes={80: 6}, embed_dims={256: 32},
    num_feats={128: 16}, feedforward_channels={2048: 16, 1024: 16},
    num_layers={6: 2}, num_queries={100: 12, 300: 12}, num={256: 32, 512: 16},
    max_per_img={1000: 20}, nms_pre={1000: 100, 2000: 100})


def _shrunk(value, name=None):
    if isinstance(value, dict):
        return {k: _shrunk(v, k) for k, v in value.items()}
    key = tuple(value) if isinstance(value, (list, tuple)) else value
    try:
        if name in SMALL and key in SMALL[name]:
            return copy.deepcopy(SMALL[name][key])
    except TypeError:  # a list of dicts
        pass
    if isinstance(value, (list, tuple)):
        return [_shrunk(item, name) for item in value]
    return value


def model(name, width=8, root='mmdet'):
    """The host's detector with a small ResNet-18, few channels, 6 classes."""
    cfg = Config.fromfile(Config._get_cfg_path(f'{root}::{CONFIGS[name]}',
                                               '')[0]).model.to_dict()
    cfg = _shrunk(cfg)
    cfg.pop('init_cfg', None)
    cfg['data_preprocessor'].update(pad_size_divisor=32)
    cfg['data_preprocessor'].pop('batch_augments', None)
    backbone = cfg['backbone']
    backbone.pop('init_cfg', None)
    if backbone['type'] == 'ResNet':
        backbone.update(depth=18, base_channels=width, stem_channels=width,
                        style='pytorch')
        cfg['neck']['in_channels'] = [
            c * width // 8 for c in cfg['neck']['in_channels']]
    if name == 'deformable':
        cfg['bbox_head']['embed_dims'] = 32
        for part, attention in (('encoder', 'self'), ('decoder', 'cross')):
            cfg[part]['layer_cfg'][f'{attention}_attn_cfg']['dropout'] = 0.0
    return ConfigDict(cfg)


def teacher(name, width=8, checkpoint='random'):
    return dict(config=dict(model=model(name, width), default_scope='mmdet'),
                checkpoint=checkpoint)


def config(tmp_path, name, *hooks, size=64, **changes):
    """The config of a run of two iterations on images of mixed sizes."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True,
             with_mask=name == 'mask'),
        dict(type='RandomResize', scale=(size, size), ratio_range=(0.5, 1.5),
             keep_ratio=True),
        dict(type='PackDetInputs')
    ]
    data = dict(type='mmselfkd.ToyDetDataset', size=size, pipeline=pipeline)
    cfg = tiny_runs.config(tmp_path, *hooks)
    cfg = cfg.to_dict() | dict(
        default_scope='mmdet', model=model(name),
        val_dataloader=None, val_evaluator=None, val_cfg=None)
    cfg['train_dataloader']['dataset'] = dict(data, length=8, split='train')
    cfg = Config(cfg)
    cfg.merge_from_dict(changes)
    return cfg


OF_QUERIES = dict(  # of a DETR and its kind
    loss_kd=dict(type='KDLoss', source='logits', ignore_index=None),
    loss_box=dict(type='ValueLoss', source='boxes', loss_weight=5.0))


def without_chance(cfg):
    """The same run with images of one size and no dropout, as a run anew."""
    resize, = (step for step in cfg.train_dataloader.dataset.pipeline
               if step['type'] == 'RandomResize')
    resize.update(ratio_range=(1, 1))
    for part in ('encoder', 'decoder'):
        layer = cfg.model.get(part, {}).get('layer_cfg', {})
        for name, options in layer.items():
            if name.endswith('attn_cfg'):
                options.dropout = 0.
            if name == 'ffn_cfg':
                options.ffn_drop = 0.
    return cfg


@TRANSFORMS.register_module()
class NoBoxes(BaseTransform):

    def transform(self, results):
        results['gt_bboxes'] = results['gt_bboxes'][:0]
        results['gt_bboxes_labels'] = results['gt_bboxes_labels'][:0]
        results['gt_ignore_flags'] = results['gt_ignore_flags'][:0]
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'][[]]
        return results


@MODELS.register_module()
class SquaredDifference(nn.Module):
    """A user's own loss, which takes no weight."""
    channels = 'any'

    def forward(self, student, teacher, label=None):
        return (student - teacher.detach()).square().mean()


@MODELS.register_module()
class UnknownHead(FCOSHead):
    """The class scores come from a module of another name."""

    def _init_predictor(self):
        super()._init_predictor()
        self.init_cfg['override']['name'] = 'what'
        self.what = self.conv_cls
        del self.conv_cls

    def forward_single(self, x, scale, stride):
        self.__dict__['conv_cls'] = self.what
        return super().forward_single(x, scale, stride)
