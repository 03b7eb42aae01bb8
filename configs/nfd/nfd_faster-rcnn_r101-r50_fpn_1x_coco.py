_base_ = '../_base_/pairs/faster-rcnn_r101-r50_fpn_1x_coco.py'
custom_hooks = [dict(type='mmselfkd.NFDHook', teacher=_base_.teacher)]
