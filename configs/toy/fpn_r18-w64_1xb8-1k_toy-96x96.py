_base_ = [
    '../_base_/mmselfkd.py', 'mmseg::_base_/models/fpn_r50.py',
    '../_base_/datasets/toy_seg.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/schedule_1k.py'
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    pretrained=None,
    backbone=dict(
        depth=18, stem_channels=64, base_channels=64, norm_cfg=norm_cfg),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=7,
        norm_cfg=norm_cfg))
randomness = dict(seed=0)
