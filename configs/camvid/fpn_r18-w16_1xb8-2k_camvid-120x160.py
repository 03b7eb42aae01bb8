_base_ = './fpn_r18-w48_1xb8-2k_camvid-120x160.py'
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32))
