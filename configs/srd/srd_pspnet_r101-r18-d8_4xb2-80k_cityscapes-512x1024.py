_base_ = '../_base_/pairs/pspnet_r101-r18-d8_4xb2-80k_cityscapes-512x1024.py'
custom_hooks = [dict(type='mmselfkd.SRDHook', teacher=_base_.teacher)]
