_base_ = '../_base_/pairs/fpn_r18-w48-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [dict(type='mmselfkd.SRDHook', teacher=_base_.teacher)]
