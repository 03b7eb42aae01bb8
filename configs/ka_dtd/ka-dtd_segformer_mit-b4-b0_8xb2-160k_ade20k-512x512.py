_base_ = '../_base_/pairs/segformer_mit-b4-b0_8xb2-160k_ade20k-512x512.py'
custom_hooks = [dict(type='mmselfkd.KADTDHook', teacher=_base_.teacher)]
