# EfficientNet-Lite2 and a feature pyramid of 64 channels
_base_ = './camvid.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientNetLite2',
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$WEIGHTS:weights}}/lite2.pth')),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    decode_head=dict(in_channels=[64] * 4, channels=64))
# the best of four trials on the part held apart
optim_wrapper = dict(optimizer=dict(lr=3e-3))
