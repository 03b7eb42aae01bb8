# GFL on EfficientNet-Lite2, 64 channels
_base_ = './bccd_gfl_student.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientNetLite2',
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$WEIGHTS:weights}}/lite2.pth')),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64))
