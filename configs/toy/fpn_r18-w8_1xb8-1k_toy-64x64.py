_base_ = './fpn_r18-w32_1xb8-1k_toy-64x64.py'
model = dict(
    backbone=dict(stem_channels=8, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    decode_head=dict(in_channels=[16] * 4, channels=16))
