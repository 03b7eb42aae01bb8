# Small roads; what the project trains today.
_base_ = 'teacher.py'
model = dict(
    backbone=dict(stem_channels=4, base_channels=4),
    decode_head=dict(in_channels=32, channels=8))
custom_hooks = [
    dict(type='EMAHook', momentum=0.01),
    dict(type='CountHook'),
]
