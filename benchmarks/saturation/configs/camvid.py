# SPLIT=held: the last fifth of each of the three sequences of train is held
# apart and takes the place of val.
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
if '{{$SPLIT:val}}' == 'held':
    train_dataloader = dict(
        dataset=dict(indices=sorted({*range(367)} - {*held})))
    val_dataloader = dict(
        dataset=dict(
            data_prefix=dict(
                img_path='images/train', seg_map_path='annotations/train'),
            indices=held))
model = dict(
    data_preprocessor=dict(
        mean=[127.5] * 3, std=[127.5] * 3, size=(120, 160)),
    decode_head=dict(
        num_classes=11, loss_decode=dict(avg_non_ignore=True)))
