# ResNet-101 with the light depth head
_base_ = [
    '../_base_/mmselfkd.py', '../_base_/models/depth_r18.py',
    '../_base_/datasets/nyu.py', 'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py'
]
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(
        depth=101,
        stem_channels=64,
        base_channels=64,
        norm_cfg=norm_cfg,
        init_cfg=dict(
            type='Pretrained', checkpoint='open-mmlab://resnet101_v1c')),
    decode_head=dict(
        in_channels=[256, 512, 1024, 2048],
        channels=256,
        min_depth=1e-3,
        max_depth=10.,
        norm_cfg=norm_cfg))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1500, by_epoch=False),
    dict(type='PolyLR', power=0.9, begin=1500, end=40000, by_epoch=False)
]
default_hooks = dict(
    checkpoint=dict(save_best='rmse', rule='less', max_keep_ckpts=1))
