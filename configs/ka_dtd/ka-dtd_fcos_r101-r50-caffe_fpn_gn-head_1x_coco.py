_base_ = '../_base_/pairs/fcos_r101-r50-caffe_fpn_gn-head_1x_coco.py'
custom_hooks = [dict(type='mmselfkd.KADTDHook', teacher=_base_.teacher)]
