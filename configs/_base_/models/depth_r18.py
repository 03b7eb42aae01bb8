# ResNetV1c-18 and the light depth head, trained from scratch: plain BN
model = dict(
    _scope_='mmseg',
    type='DepthEstimator',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=0),  # no depth
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=32,
        base_channels=32,
        norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(
        type='mmselfkd.DepthHead',
        in_channels=[32, 64, 128, 256],
        in_index=[0, 1, 2, 3],
        channels=32,
        min_depth=0.5,
        max_depth=12.,
        norm_cfg=dict(type='BN', requires_grad=True),
        loss_decode=dict(type='mmseg.SiLogLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
