_base_ = [
    '../_base_/mmselfkd.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
]
custom_hooks = [dict(type='mmselfkd.TFDHook')]
