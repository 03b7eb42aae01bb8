_base_ = [
    '../_base_/mmselfkd.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'  # noqa: E501
]
custom_hooks = [dict(type='mmselfkd.FRSKDHook')]
