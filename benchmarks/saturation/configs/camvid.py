# SPLIT=held: the last fifth of each of the three sequences of train is held
# apart and takes the place of val. SPLIT=eighth or quarter: every eighth or
# fourth image of train has labels. RESOLUTION=full: 480x360, crops of all of
# the height, in place of 240x180.
_base_ = [
    '../../../configs/_base_/mmselfkd.py',
    '../../../configs/_base_/datasets/camvid.py',
    '../../../configs/_base_/models/fpn_r18.py',
    'mmseg::_base_/default_runtime.py', './schedule.py'
]
custom_imports = dict(
    imports=['mmselfkd', 'benchmarks.saturation.models'],
    allow_failed_imports=False)
log_processor = dict(window_size=100)
held = [*range(50, 62), *range(143, 163), *range(326, 367)]
train_dataloader = dict(dataset=dict())
val_dataloader = dict(dataset=dict())
split = '{{$SPLIT:val}}'
if split in ('eighth', 'quarter'):
    train_dataloader['dataset'].update(
        indices=[*range(0, 367, 8 if split == 'eighth' else 4)])
if split == 'held':
    train_dataloader['dataset'].update(
        indices=sorted({*range(367)} - {*held}))
    val_dataloader['dataset'].update(
        data_prefix=dict(
            img_path='images/train', seg_map_path='annotations/train'),
        indices=held)
crop_size, scale = (120, 160), (240, 180)
if '{{$RESOLUTION:half}}' == 'full':
    crop_size, scale = (360, 480), (480, 360)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
train_dataloader['dataset']['pipeline'] = train_pipeline
val_dataloader['dataset']['pipeline'] = test_pipeline
model = dict(
    data_preprocessor=dict(
        mean=[127.5] * 3, std=[127.5] * 3, size=crop_size),
    decode_head=dict(
        num_classes=11, loss_decode=dict(avg_non_ignore=True)))
