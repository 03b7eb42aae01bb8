# MobileNetV2 with the light depth head
_base_ = './depth_r101_1xb8-40k_nyu-480x480.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=_base_.norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='mmcls://mobilenet_v2')),
    decode_head=dict(in_channels=[24, 32, 96, 320], channels=64))
