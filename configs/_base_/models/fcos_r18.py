# FCOS on ResNet-18, three levels, trained from scratch: plain BN and GN
norm_cfg = dict(type='BN', requires_grad=True)
head_norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    _scope_='mmdet',
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=48,
        base_channels=48,
        norm_cfg=norm_cfg,
        zero_init_residual=False),
    neck=dict(
        type='FPN',
        in_channels=[48, 96, 192, 384],
        out_channels=96,
        start_level=1,
        num_outs=3,
        norm_cfg=head_norm_cfg),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        norm_cfg=head_norm_cfg,
        loss_cls=dict(
            type='FocalLoss',
            use_sigmoid=True,
            gamma=2.0,
            alpha=0.25,
            loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(
            type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100))
