# FCOS on MobileNetV1 x0.25, 32 channels
_base_ = './bccd.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV1',
        width=0.25,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{$WEIGHTS:weights}}/mobilenetv1_x0.25.pth')),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32))
