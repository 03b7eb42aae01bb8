_base_ = [
    '../_base_/mmselfkd.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
]
custom_hooks = [dict(type='mmselfkd.TFDHook')]
