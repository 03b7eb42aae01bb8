# half of the weight of the positions of an image lies in its boxes
_base_ = '../_base_/pairs/retinanet_r101-r18_fpn_1x_coco.py'
custom_hooks = [
    dict(
        type='mmselfkd.NFDHook',
        teacher=_base_.teacher,
        losses=dict(loss_nfd=dict(foreground=0.5)))
]
