# Parts; what the project trains today.
_base_ = 'teacher.py'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16))
custom_hooks = [
    dict(type='EMAHook', momentum=0.01),
    dict(type='CountHook'),
]
