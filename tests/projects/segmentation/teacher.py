# Small roads; the larger model. No hooks of its own.
custom_imports = dict(imports=['roads'], allow_failed_imports=False)
default_scope = 'mmseg'
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', size=(32, 32), mean=[110.] * 3,
        std=[40.] * 3),
    backbone=dict(
        type='ResNetV1c', depth=18, stem_channels=8, base_channels=8,
        strides=(1, 2, 1, 1),
        norm_cfg=norm),
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1,
        num_classes=2, norm_cfg=norm),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [dict(type='DrawRoad'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='RoadDataset', pipeline=pipeline))
val_dataloader = test_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='RoadDataset', pipeline=pipeline))
val_evaluator = test_evaluator = dict(type='IoUMetric')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False))
