_base_ = '../bccd/fcos_r18-w16_1xb8-1k_bccd-320x240.py'
custom_hooks = [dict(type='mmselfkd.FRSKDHook')]
