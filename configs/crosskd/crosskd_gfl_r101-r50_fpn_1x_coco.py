_base_ = '../_base_/pairs/gfl_r101-r50_fpn_1x_coco.py'
custom_hooks = [dict(type='mmselfkd.CrossKDHook', teacher=_base_.teacher)]
