_base_ = '../_base_/pairs/gfl_r18-w48-w16_1xb8-1k_bccd-320x240.py'
custom_hooks = [dict(type='mmselfkd.CrossKDHook', teacher=_base_.teacher)]
