_base_ = [
    '../_base_/mmselfkd.py', '../_base_/models/depth_r18.py',
    '../_base_/datasets/toy_depth.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/schedule_adamw_2k.py'
]
model = dict(data_preprocessor=dict(size=(64, 64)))

max_iters = 1000
optim_wrapper = dict(optimizer=dict(lr=5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=100, by_epoch=False),
    dict(
        type='PolyLR', power=0.9, begin=100, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
default_hooks = dict(
    checkpoint=dict(interval=max_iters // 2, save_best=None))
log_processor = dict(window_size=50)  # logged times cover every iteration
