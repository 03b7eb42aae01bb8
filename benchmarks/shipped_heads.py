"""One shipped config for each head of mmseg and mmdet, narrowed.

A narrowed model keeps the head, the losses and the wiring of its config. It
has an eighth of the channels, two transformer layers, few queries and few
classes, so that a training step takes a fraction of a second on one core.
"""
import copy
import dataclasses
import functools
import operator
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, TRANSFORMS

import mmselfkd  # noqa: F401  (registers hooks and data sets)

NARROW, WIDE = 8, 4  # what the channels of a student and a teacher divide by
LEAST = 17  # channels that are divided; fewer stay as they are
CLASSES = dict(mmseg=7, mmdet=6)

WIDTHS = re.compile(r'(channels?|_dims?|embed_dims|num_feats|_inplanes|'
                    r'_filters|base_channels|dims)$')
FEWER = dict(
    num_queries=12, num_proposals=12, nms_pre=100, nms_post=100,
    max_per_img=20, num_dn_queries=4, num_points=64, subdivision_num_points=64,
    num=32, min_kept=100, sos_token_num=12, num_priors=24)
KEEP = dict(num_points=100, num=20)  # what is less, stays
# what these have where their config does not say it
_RESNET = dict(base_channels=64)
_DETR = dict(embed_dims=256)
DEFAULTS = dict(
    ResNet=_RESNET, DetectoRS_ResNet=_RESNET, TridentResNet=_RESNET,
    ResNetV1c=dict(_RESNET, stem_channels=64),
    HourglassNet=dict(feat_channel=256), DETRHead=_DETR,
    ConditionalDETRHead=_DETR, DABDETRHead=_DETR, DeformableDETRHead=_DETR,
    DINOHead=_DETR, DDQDETRHead=_DETR,
    PanopticFPNHead=dict(norm_cfg=dict(type='GN', num_groups=32)),
    CSPDarknet=dict(widen_factor=1.0), CSPNeXt=dict(widen_factor=1.0))


@dataclass(frozen=True)
class Shipped:
    """A shipped config and what it needs beside narrowing.

    Attributes:
        host (str): ``'mmseg'`` or ``'mmdet'``.
        config (str): Path below the configs of the host.
        changes (dict): Merged into the narrowed model, by dotted keys.
        size (int): Side of the images.
        data (tuple[str]): Of ``'masks'``, ``'semantic'``, ``'proposals'``,
            ``'depth'``.
        narrow (bool): Whether its channels can be divided.
        transforms (tuple[dict]): Added to the pipeline.
    """
    host: str
    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    size: int = 64
    data: tuple[str, ...] = ()
    narrow: bool = True
    transforms: tuple[dict, ...] = ()

    def model(self, divisor: int = NARROW) -> dict[str, Any]:
        """The model, of channels divided by ``divisor``."""
        model = copy.deepcopy(_model_of(self.host, self.config))
        for part in _parts(model):
            for name, value in DEFAULTS.get(str(part.get('type')),
                                            {}).items():
                part.setdefault(name, copy.deepcopy(value))
        model = _narrowed(model, divisor if self.narrow else 1,
                          CLASSES[self.host])
        _prepare(model, self.host, self.size)
        for key, value in self.changes.items():
            *path, name = key.split('.')
            functools.reduce(operator.getitem, path, model)[name] = (
                value(divisor) if callable(value) else copy.deepcopy(value))
        return model


@functools.cache
def _model_of(host: str, config: str) -> dict[str, Any]:
    """As it is shipped; finding and reading it takes longer than a step."""
    path = Config._get_cfg_path(f'{host}::{config}', '')[0]
    return Config.fromfile(path).model.to_dict()


def _narrowed(value: Any, divisor: int, classes: int, name: str = '') -> Any:
    if isinstance(value, dict):
        return {key: _narrowed(item, divisor, classes, key)
                for key, item in value.items()
                if key not in ('init_cfg', 'pretrained', 'teacher_ckpt')}
    if name == 'class_weight' and isinstance(value, (list, tuple)):
        has_none = value[-1] == 0.1  # a class of its own for no object
        stuff = len(value) - has_none == 133  # things and stuff of COCO
        return [1.0] * (classes + stuff) + [0.1] * has_none
    if isinstance(value, (list, tuple)):
        return type(value)(
            _narrowed(item, divisor, classes, name) for item in value)
    if name == 'widen_factor':
        return value / divisor
    if isinstance(value, bool) or not isinstance(value, int):
        return 'BN' if value == 'SyncBN' else value
    if name in ('num_classes', 'num_things_classes'):
        return classes
    if name == 'num_stuff_classes':
        return min(value, 1)
    if name == 'num_layers' and value in (6, 9):
        return 2
    if name == 'num_groups' and value == 32:
        return 4
    if name in FEWER and value >= KEEP.get(name, 0):
        return min(value, FEWER[name])
    if WIDTHS.search(name) and value >= LEAST:
        return max(value // divisor, 1)
    return value


def _parts(value: Any):
    if isinstance(value, dict):
        yield value
    for item in (value.values() if isinstance(value, dict) else value
                 if isinstance(value, (list, tuple)) else ()):
        yield from _parts(item)


def _prepare(model: dict, host: str, size: int) -> None:
    """Small images of one size, nothing frozen."""
    processor = model.get('data_preprocessor', {})
    processor.pop('batch_augments', None)
    if host == 'mmseg':
        processor.pop('size_divisor', None)
        processor['size'] = (size, size)
    for part in _parts(model):
        if part.get('frozen_stages', 0) > 0:
            part['frozen_stages'] = 0 if (
                part['type'] == 'EfficientNet') else -1


@TRANSFORMS.register_module()
class SceneLabels(BaseTransform):
    """What some heads need beside boxes and masks, from the scene.

    Args:
        proposals (bool): Whether to give the boxes as proposals too.
    """

    def __init__(self, proposals: bool = False) -> None:
        self.proposals = proposals

    def transform(self, results: dict) -> dict:
        stem = results['img_path'].rpartition('.')[0]
        results['seg_map_path'] = f'{stem}_labels.png'
        if self.proposals:
            boxes = [i['bbox'] for i in results['instances']] or [[0, 0, 9, 9]]
            results['proposals'] = dict(bboxes=np.array(
                [(x + dx, y, z + dx, w) for x, y, z, w in boxes
                 for dx in (-4, 0, 4)], dtype=np.float32))
        return results


@TRANSFORMS.register_module()
class ThingsFirst(BaseTransform):
    """The ground, class 0 of a scene, is the stuff behind six things."""

    def transform(self, results: dict) -> dict:
        labels = results['gt_seg_map'].astype(np.int64)
        results['gt_seg_map'] = np.where(labels == 0, 6, labels - 1)
        return results


@TRANSFORMS.register_module()
class OneClass(BaseTransform):
    """Whatever it is, for heads of one class."""

    def transform(self, results: dict) -> dict:
        results['gt_bboxes_labels'] = np.zeros_like(
            results['gt_bboxes_labels'])
        return results


def config(work_dir: Any, shipped: Shipped, *hooks: dict,
           iterations: int = 2, **changes: Any) -> Config:
    """A run of a few iterations that saves nothing."""
    size, data = shipped.size, shipped.data
    if shipped.host == 'mmseg':
        is_depth = 'depth' in data
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3)
            if is_depth else dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5), *shipped.transforms,
            dict(type='PackSegInputs')]
        dataset = dict(type='mmselfkd.ToyDepthDataset' if is_depth
                       else 'mmselfkd.ToySegDataset')
    else:
        pipeline = [
            dict(type='SceneLabels', proposals='proposals' in data),
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True,
                 with_mask='masks' in data, with_seg='semantic' in data),
            *[dict(type='LoadProposals')] * ('proposals' in data),
            *[dict(type='ThingsFirst')] * ('semantic' in data),
            dict(type='Resize', scale=(size, size)),
            dict(type='RandomFlip', prob=0.5), *shipped.transforms,
            dict(type='PackDetInputs')]
        dataset = dict(type='mmselfkd.ToyDetDataset')
    cfg = dict(
        default_scope=shipped.host,
        work_dir=str(work_dir),
        model=shipped.model(),
        train_dataloader=dict(
            batch_size=2, num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dict(dataset, length=8, split='train', size=size,
                         serialize_data=False, pipeline=pipeline)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations,
                       val_interval=10**6),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4),
            clip_grad=dict(max_norm=1.0)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1), checkpoint=None),
        custom_hooks=list(hooks),
        randomness=dict(seed=3),
        log_level='WARNING')
    cfg = Config(cfg)
    cfg.merge_from_dict(changes)
    return cfg


_S = 64  # the default size of an image
_GROUPS = dict(type='GN', num_groups=4, requires_grad=True)
_LEVELS = {'neck.num_outs': 3, 'bbox_head.anchor_generator.strides':
           [8, 16, 32]}  # a deformable convolution needs maps of 3x3
def _san_weights(divisor: int) -> str:
    """A file with a start, without which SAN cannot be initialised."""
    san = SEGMENTORS['san']
    changes = {k: v for k, v in san.changes.items() if k != 'pretrained'}
    model = MODELS.build(ConfigDict(dataclasses.replace(
        san, changes=changes).model(divisor), _scope_='mmseg'))
    for parameter in model.parameters():  # some are torch.empty
        torch.nn.init.normal_(parameter, std=0.02)
    path = Path(tempfile.gettempdir()) / f'san_{divisor}.pth'
    torch.save(model.state_dict(), path)
    return str(path)


_CROWD = {  # that of torchvision is the same operation
    'roi_head.bbox_roi_extractor.roi_layer.use_torchvision': False,
    'roi_head.bbox_head.num_classes': 1}
_C4 = {  # smaller regions, and statistics of the batch
    'roi_head.bbox_roi_extractor.roi_layer.output_size': 7,
    'roi_head.bbox_head.roi_feat_size': 4, 'backbone.norm_eval': False,
    'roi_head.shared_head.norm_eval': False}
_NO_SAC = {  # without pretrained weights these overflow
    f'{part}.{name}': value for part in ('backbone', 'neck.rfp_backbone')
    for name, value in dict(
        conv_cfg=None, sac=None, stage_with_sac=(False, ) * 4).items()}


def _seg(config: str, **kwargs: Any) -> Shipped:
    return Shipped('mmseg', config, **kwargs)


def _det(config: str, **kwargs: Any) -> Shipped:
    return Shipped('mmdet', config, **kwargs)


_MASKS, _SCENE = ('masks', ), ('masks', 'semantic')

SEGMENTORS = dict(
    ann=_seg('ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    apcnet=_seg('apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    beit=_seg('beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py',
              changes={'backbone.img_size': (_S, _S)}),
    bisenetv1=_seg('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-'
                   '1024x1024.py'),
    bisenetv2=_seg('bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-'
                   '1024x1024.py'),
    ccnet=_seg('ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    cgnet=_seg('cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py',
               narrow=False),
    danet=_seg('danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    ddrnet=_seg('ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-'
                '1024x1024.py'),
    deeplabv3=_seg('deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-'
                   '512x1024.py'),
    deeplabv3plus=_seg('deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_'
                       'cityscapes-512x1024.py'),
    dmnet=_seg('dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    dnlnet=_seg('dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    dpt=_seg('dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py'),
    emanet=_seg('emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py'),
    encnet=_seg('encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    erfnet=_seg('erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',
                narrow=False),
    fastfcn=_seg('fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-'
                 '512x1024.py'),
    fastscnn=_seg('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'),
    fcn=_seg('fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    gcnet=_seg('gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    hrnet=_seg('hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py'),
    icnet=_seg('icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py'),
    isanet=_seg('isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    knet_fcn=_seg('knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-'
                  '512x512.py'),
    knet_upernet=_seg('knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-'
                      '512x512.py'),
    mae=_seg('mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
             changes={'backbone.img_size': (_S, _S)}),
    mask2former=_seg('mask2former/mask2former_r50_8xb2-90k_cityscapes-'
                     '512x1024.py'),
    maskformer=_seg('maskformer/maskformer_r50-d32_8xb2-160k_ade20k-'
                    '512x512.py'),
    mobilenetv3=_seg('mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_'
                     'cityscapes-512x1024.py', size=400, narrow=False),
    nonlocal_net=_seg('nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-'
                      '512x1024.py'),
    ocrnet=_seg('ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py',
                changes={'backbone.depth': 50}),
    pidnet=_seg('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
                transforms=(dict(type='GenerateEdge', edge_width=4), )),
    pointrend=_seg('point_rend/pointrend_r50_4xb2-80k_cityscapes-'
                   '512x1024.py'),
    psanet=_seg('psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    pspnet=_seg('pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    san=_seg('san/san-vit-b16_coco-stuff164k-640x640.py', changes={
        'text_encoder.vocabulary': list('abcdefg'),
        'text_encoder.templates': ['a photo of a {}.'],
        'text_encoder.dataset_name': None, 'image_encoder.num_layers': 9,
        'pretrained': _san_weights}),
    segformer=_seg('segformer/segformer_mit-b0_8xb2-160k_ade20k-'
                   '512x512.py'),
    segmenter=_seg('segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-'
                   '512x512.py'),
    segmenter_fcn=_seg('segmenter/segmenter_vit-s_fcn_8xb1-160k_ade20k-'
                       '512x512.py'),
    segnext=_seg('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-'
                 '512x512.py'),
    sem_fpn=_seg('sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'),
    setr_mla=_seg('setr/setr_vit-l_mla_8xb1-80k_cityscapes-768x768.py'),
    setr_naive=_seg('setr/setr_vit-l_naive_8xb1-80k_cityscapes-768x768.py'),
    setr_pup=_seg('setr/setr_vit-l_pup_8xb1-80k_cityscapes-768x768.py'),
    stdc=_seg('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py'),
    swin=_seg('swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_'
              'ade20k-512x512.py'),
    twins=_seg('twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512.py'),
    unet=_seg('unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py'),
    upernet=_seg('upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py'),
    vit=_seg('vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py'),
    vpd=_seg('vpd/vpd_sd_4xb8-25k_nyu-480x480.py', data=('depth', ),
             changes={  # a ResNet in place of the diffusion network
                 'backbone': lambda divisor: dict(
                     type='ResNetV1c', depth=50, norm_cfg=dict(type='BN'),
                     base_channels=64 // divisor,
                     stem_channels=64 // divisor),
                 'decode_head.in_channels': lambda divisor: [
                     c // divisor for c in (256, 512, 1024, 2048)],
                 'decode_head.embed_dim': 16, 'decode_head.feature_dim': 128,
                 'decode_head.num_deconv_filters': (16, 16, 16),
                 'decode_head.fmap_border': 0, 'test_cfg.mode': 'whole'}))

DETECTORS = dict(
    atss=_det('atss/atss_r50_fpn_1x_coco.py'),
    autoassign=_det('autoassign/autoassign_r50-caffe_fpn_1x_coco.py'),
    boxinst=_det('boxinst/boxinst_r50_fpn_ms-90k_coco.py', data=_MASKS),
    cascade=_det('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'),
    cascade_mask=_det('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
                      data=_MASKS),
    cascade_rpn_faster=_det('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_'
                            'fpn_1x_coco.py'),
    centernet=_det('centernet/centernet_r18_8xb16-crop512-140e_coco.py'),
    centernet_update=_det('centernet/centernet-update_r50-caffe_fpn_ms-1x_'
                          'coco.py'),
    centripetalnet=_det('centripetalnet/centripetalnet_hourglass104_16xb6-'
                        'crop511-210e-mstest_coco.py', size=128),
    condinst=_det('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
                  data=_MASKS),
    conditional_detr=_det('conditional_detr/conditional-detr_r50_8xb2-50e_'
                          'coco.py', size=128, narrow=False),
    cornernet=_det('cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco'
                   '.py', size=128),
    crowddet=_det('crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py',
                  changes=_CROWD, transforms=(dict(type='OneClass'), )),
    crowddet_refine=_det('crowddet/crowddet-rcnn_refine_r50_fpn_8xb2-30e_'
                         'crowdhuman.py', changes=_CROWD,
                         transforms=(dict(type='OneClass'), )),
    dab_detr=_det('dab_detr/dab-detr_r50_8xb2-50e_coco.py', size=128),
    ddod=_det('ddod/ddod_r50_fpn_1x_coco.py', size=96, changes=_LEVELS),
    ddq=_det('ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py'),
    deformable_detr=_det('deformable_detr/deformable-detr_r50_16xb2-50e_'
                         'coco.py'),
    deformable_refine=_det('deformable_detr/deformable-detr-refine_r50_'
                           '16xb2-50e_coco.py'),
    deformable_twostage=_det('deformable_detr/deformable-detr-refine-'
                             'twostage_r50_16xb2-50e_coco.py', narrow=False),
    detectors=_det('detectors/detectors_cascade-rcnn_r50_1x_coco.py',
                   size=128, changes=_NO_SAC),
    detr=_det('detr/detr_r50_8xb2-150e_coco.py', size=128),
    dino=_det('dino/dino-4scale_r50_8xb2-12e_coco.py'),
    double_heads=_det('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py'),
    dyhead=_det('dyhead/atss_r50_fpn_dyhead_1x_coco.py'),
    dynamic_rcnn=_det('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py'),
    efficientnet=_det('efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_'
                      'coco.py', narrow=False, changes={
                          'neck.out_channels': 32,
                          'bbox_head.in_channels': 32,
                          'bbox_head.feat_channels': 32}),
    fast_rcnn=_det('fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py',
                   data=('proposals', )),
    faster_rcnn=_det('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    faster_rcnn_c4=_det('faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py',
                        narrow=False, changes=_C4),
    fcos=_det('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    foveabox=_det('foveabox/fovea_r50_fpn_4xb4-1x_coco.py'),
    free_anchor=_det('free_anchor/freeanchor_r50_fpn_1x_coco.py'),
    fsaf=_det('fsaf/fsaf_r50_fpn_1x_coco.py'),
    gfl=_det('gfl/gfl_r50_fpn_1x_coco.py'),
    ghm=_det('ghm/retinanet_r50_fpn_ghm-1x_coco.py'),
    grid_rcnn=_det('grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py'),
    ga_retinanet=_det('guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco'
                      '.py'),
    ga_faster=_det('guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco'
                   '.py'),
    ga_rpn=_det('guided_anchoring/ga-rpn_r50-caffe_fpn_1x_coco.py'),
    htc=_det('htc/htc_r50_fpn_1x_coco.py', data=_SCENE, changes={
        'roi_head.semantic_head.num_classes': 7}),
    htc_without_semantic=_det('htc/htc-without-semantic_r50_fpn_1x_coco.py',
                              data=_MASKS),
    lad=_det('lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py'),
    ld=_det('ld/ld_r18-gflv1-r101_fpn_1x_coco.py', changes={
        'teacher_config': lambda divisor: dict(
            model=DETECTORS['gfl'].model(divisor))}),
    libra_rcnn=_det('libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py'),
    mask2former=_det('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
                     data=_MASKS),
    mask2former_panoptic=_det('mask2former/mask2former_r50_8xb2-lsj-50e_'
                              'coco-panoptic.py', data=_SCENE),
    mask_rcnn=_det('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', data=_MASKS),
    maskformer=_det('maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
                    data=_SCENE),
    ms_rcnn=_det('ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', data=_MASKS),
    nas_fcos=_det('nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_'
                  'coco.py'),
    nas_fpn=_det('nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py'),
    paa=_det('paa/paa_r50_fpn_1x_coco.py'),
    panoptic_fpn=_det('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
                      data=_SCENE),
    pisa_retinanet=_det('pisa/retinanet-r50_fpn_pisa_1x_coco.py'),
    pisa_ssd=_det('pisa/ssd300_pisa_coco.py', size=300, narrow=False),
    pisa_faster=_det('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py'),
    point_rend=_det('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
                    data=_MASKS),
    queryinst=_det('queryinst/queryinst_r50_fpn_1x_coco.py', data=_MASKS),
    reppoints=_det('reppoints/reppoints-moment_r50_fpn_1x_coco.py'),
    retinanet=_det('retinanet/retinanet_r50_fpn_1x_coco.py'),
    rpn=_det('rpn/rpn_r50_fpn_1x_coco.py'),
    rtmdet=_det('rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    rtmdet_ins=_det('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
                    data=_MASKS),
    sabl_retinanet=_det('sabl/sabl-retinanet_r50_fpn_1x_coco.py'),
    sabl_faster=_det('sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py'),
    sabl_cascade=_det('sabl/sabl-cascade-rcnn_r50_fpn_1x_coco.py'),
    scnet=_det('scnet/scnet_r50_fpn_1x_coco.py', data=_SCENE, changes={
        'roi_head.semantic_head.num_classes': 7}),
    seesaw=_det('seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_'
                'lvis-v1.py', data=_MASKS),
    seesaw_normed=_det('seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-'
                       'mask_random-ms-2x_lvis-v1.py', data=_MASKS),
    solo=_det('solo/solo_r50_fpn_1x_coco.py', data=_MASKS),
    decoupled_solo=_det('solo/decoupled-solo_r50_fpn_1x_coco.py',
                        data=_MASKS),
    decoupled_solo_light=_det('solo/decoupled-solo-light_r50_fpn_3x_coco.py',
                              data=_MASKS),
    solov2=_det('solov2/solov2_r50_fpn_1x_coco.py', data=_MASKS, changes={
        'mask_head.mask_feature_head.norm_cfg': _GROUPS}),
    sparse_rcnn=_det('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'),
    ssd=_det('ssd/ssd300_coco.py', size=300, narrow=False),
    ssdlite=_det('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
                 size=320, narrow=False),
    tood=_det('tood/tood_r50_fpn_1x_coco.py'),
    tridentnet=_det('tridentnet/tridentnet_r50-caffe_1x_coco.py',
                    narrow=False, changes=_C4 | {  # else of no weights
                        'backbone.init_cfg': dict(type='Kaiming', layer=[
                            'Conv2d', 'TridentConv'])}),
    vfnet=_det('vfnet/vfnet_r50_fpn_1x_coco.py'),
    yolact=_det('yolact/yolact_r50_1xb8-55e_coco.py', data=_MASKS),
    yolov3=_det('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
                narrow=False),
    yolof=_det('yolof/yolof_r50-c5_8xb8-1x_coco.py', size=128),
    yolox=_det('yolox/yolox_tiny_8xb8-300e_coco.py'))

SHIPPED = {f'mmseg/{k}': v for k, v in SEGMENTORS.items()} | {
    f'mmdet/{k}': v for k, v in DETECTORS.items()}
