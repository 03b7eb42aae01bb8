# What all runs share. ITERATIONS: the length of the schedule.
iterations = int('{{$ITERATIONS:4000}}')
warmup = max(1, min(100, iterations // 10))
interval = max(1, min(1000, iterations // 2))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        begin=0,
        end=warmup,
        by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=1e-5,
        power=0.9,
        begin=warmup,
        end=iterations,
        by_epoch=False)
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=iterations, val_interval=interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(
        type='LoggerHook',
        interval=min(100, interval),
        log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=interval,
        max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'))
# twice as fast on a CPU
custom_hooks = [dict(type='ChannelsLast')]
