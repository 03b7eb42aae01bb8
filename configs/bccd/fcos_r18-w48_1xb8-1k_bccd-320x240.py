_base_ = [
    '../_base_/mmselfkd.py', '../_base_/models/fcos_r18.py',
    '../_base_/datasets/bccd.py', '../_base_/schedules/schedule_adamw_2k.py'
]
norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    backbone=dict(
        deep_stem=False,
        stem_channels=48,
        base_channels=48,
        zero_init_residual=False),
    neck=dict(
        in_channels=[48, 96, 192, 384], out_channels=96, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=3,
        in_channels=96,
        feat_channels=96,
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=norm_cfg),
    test_cfg=dict(max_per_img=100))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='PolyLR', eta_min=1e-5, power=0.9, begin=100, end=1000,
        by_epoch=False)
]
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
train_cfg = dict(max_iters=1000, val_interval=500)
default_scope = 'mmdet'
default_hooks = dict(
    checkpoint=dict(interval=500, save_best='coco/bbox_mAP'),
    visualization=dict(type='mmdet.DetVisualizationHook'))
visualizer = dict(
    type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
