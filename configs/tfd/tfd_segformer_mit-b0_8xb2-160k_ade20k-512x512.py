_base_ = [
    '../_base_/mmselfkd.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
]
custom_hooks = [dict(type='mmselfkd.TFDHook')]
