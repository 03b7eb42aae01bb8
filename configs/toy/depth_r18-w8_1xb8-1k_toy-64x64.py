_base_ = './depth_r18-w32_1xb8-1k_toy-64x64.py'
model = dict(
    backbone=dict(stem_channels=8, base_channels=8),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=16))
