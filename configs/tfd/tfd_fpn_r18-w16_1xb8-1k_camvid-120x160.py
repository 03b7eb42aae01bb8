_base_ = '../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [dict(type='mmselfkd.TFDHook')]
