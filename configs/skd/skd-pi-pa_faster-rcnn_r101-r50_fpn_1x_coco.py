# without the discriminator: the class scores are those of RoIs, not a map
_base_ = '../_base_/pairs/faster-rcnn_r101-r50_fpn_1x_coco.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=_base_.teacher,
        losses=dict(loss_ho=None))
]
