_base_ = '../_base_/pairs/fcos_x101-mobilenet-v2_fpn_gn-head_1x_coco.py'
custom_hooks = [dict(type='mmselfkd.NFDHook', teacher=_base_.teacher)]
