_base_ = '../_base_/pairs/retinanet_r101-r18_fpn_1x_coco.py'
custom_hooks = [dict(type='mmselfkd.PKDHook', teacher=_base_.teacher)]
