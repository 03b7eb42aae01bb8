# SPLIT=held: every fifth image of train is held apart and takes the place of
# val.
_base_ = [
    '../../../configs/_base_/mmselfkd.py',
    '../../../configs/_base_/datasets/bccd.py',
    '../../../configs/_base_/models/fcos_r18.py', './schedule.py'
]
custom_imports = dict(
    imports=['mmselfkd', 'benchmarks.saturation.models'],
    allow_failed_imports=False)
default_scope = 'mmdet'
visualizer = dict(
    type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(window_size=100, by_epoch=False)
# smaller than the base's 320x240, for time
scale = (192, 144)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=scale,
        ratio_range=(0.8, 1.2),
        keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    # with the boxes, from which the metric takes the ground truth
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'instances'))
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator
held = [*range(4, 205, 5)]
if '{{$SPLIT:val}}' == 'held':
    train_dataloader['dataset']['indices'] = sorted({*range(205)} - {*held})
    val_dataloader['dataset'].update(
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        indices=held)
norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=3,
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=norm_cfg),
    test_cfg=dict(max_per_img=100))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
