_base_ = '../_base_/pairs/deeplabv3plus_r101-mobilenet-v2-d8_4xb2-80k_cityscapes-512x1024.py'
custom_hooks = [dict(type='mmselfkd.KADTDHook', teacher=_base_.teacher)]
