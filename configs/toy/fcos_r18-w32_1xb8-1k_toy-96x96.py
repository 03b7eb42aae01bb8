_base_ = [
    '../_base_/mmselfkd.py', '../_base_/models/fcos_r18.py',
    '../_base_/datasets/toy_det.py', 'mmdet::_base_/default_runtime.py'
]
max_iters = 1000
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=100, by_epoch=False),
    dict(
        type='PolyLR', power=0.9, begin=100, end=max_iters, by_epoch=False)
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False, interval=max_iters // 2, max_keep_ckpts=1),
    logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
