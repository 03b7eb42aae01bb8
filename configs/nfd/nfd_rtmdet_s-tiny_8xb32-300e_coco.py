# the student keeps its own hooks: a moving average, the end of the mosaics
_base_ = '../_base_/pairs/rtmdet_s-tiny_8xb32-300e_coco.py'
custom_hooks = _base_.custom_hooks + [
    dict(type='mmselfkd.NFDHook', teacher=_base_.teacher)
]
