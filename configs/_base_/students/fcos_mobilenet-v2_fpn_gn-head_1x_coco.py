# FCOS with MobileNetV2, for which mmdet has no config: its ResNet-50 one, with
# another backbone and the normalisation that belongs to its weights
_base_ = [
    '../mmselfkd.py', 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
]
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2')),
    neck=dict(in_channels=[24, 32, 96, 320]))
