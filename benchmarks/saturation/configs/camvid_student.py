# MobileNetV1 x0.25 and a feature pyramid of 32 channels
_base_ = './camvid.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV1',
        width=0.25,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{$WEIGHTS:weights}}/mobilenetv1_x0.25.pth')),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32))
# the best of four trials on the part held apart
optim_wrapper = dict(optimizer=dict(lr=3e-3))
