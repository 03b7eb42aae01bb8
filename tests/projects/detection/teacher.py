# Parts; the larger model. No hooks of its own.
custom_imports = dict(imports=['parts'], allow_failed_imports=False)
default_scope = 'mmdet'
model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[80.] * 3, std=[50.] * 3,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, stem_channels=8, base_channels=8,
        norm_cfg=dict(type='BN'), style='pytorch'),
    neck=dict(
        type='FPN', in_channels=[8, 16, 32, 64], start_level=1,
        add_extra_convs='on_output', out_channels=32, num_outs=5,
        relu_before_extra_convs=True),
    bbox_head=dict(
        type='FCOSHead', num_classes=1, in_channels=32, feat_channels=32,
        stacked_convs=1, strides=(8, 16, 32, 64, 128),
        norm_cfg=dict(type='GN', num_groups=8)),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.001, max_per_img=10,
        nms=dict(type='nms', iou_threshold=0.6)))
pipeline = [dict(type='DrawPart'), dict(type='PackDetInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='PartDataset', pipeline=pipeline))
val_dataloader = test_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='PartDataset', pipeline=pipeline, test_mode=True))
val_evaluator = test_evaluator = dict(type='PartsFound')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
