# VOC 2007 and 2012 by the lists of FRSKD's segmentation code: trainval of both
# for training, test of 2007 (VOCtest_06-Nov-2007.tar) for evaluation
dataset_type = 'PascalVOCDataset'
data_root = 'data/VOCdevkit'
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='LoadAnnotations'),  # in their own size
    dict(type='PackSegInputs')
]
common = dict(
    type=dataset_type,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'))
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        _scope_='mmseg',
        type='ConcatDataset',
        datasets=[
            dict(
                **common,
                data_root=f'{data_root}/{year}',
                ann_file='ImageSets/Segmentation/trainval.txt',
                pipeline=train_pipeline) for year in ('VOC2007', 'VOC2012')
        ]))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **common,
        _scope_='mmseg',
        data_root=f'{data_root}/VOC2007',
        ann_file='ImageSets/Segmentation/test.txt',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
