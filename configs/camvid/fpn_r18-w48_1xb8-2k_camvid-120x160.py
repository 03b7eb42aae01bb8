_base_ = [
    '../_base_/mmselfkd.py', '../_base_/models/fpn_r18.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_adamw_2k.py',
    'mmseg::_base_/default_runtime.py'
]
crop_size = (120, 160)
model = dict(
    data_preprocessor=dict(size=crop_size), decode_head=dict(num_classes=11))
