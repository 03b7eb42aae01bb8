_base_ = [
    '../_base_/mmselfkd.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
]
custom_hooks = [dict(type='mmselfkd.KADTDHook')]
