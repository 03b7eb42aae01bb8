_base_ = [
    '../_base_/mmselfkd.py', 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
]
custom_hooks = [dict(type='mmselfkd.TFDHook')]
