_base_ = './fpn_r18-w48_1xb8-2k_camvid-120x160.py'
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32))
train_cfg = dict(max_iters=1000, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='PolyLR', eta_min=1e-5, power=0.9, begin=100, end=1000,
        by_epoch=False)
]
default_hooks = dict(checkpoint=dict(interval=500))
