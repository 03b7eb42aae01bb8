# soft labels of the RoIs with dynamic temperatures; what KA swaps are labels
# of a map, which RoIs do not have
_base_ = '../_base_/pairs/faster-rcnn_r101-r50_fpn_1x_coco.py'
custom_hooks = [
    dict(
        type='mmselfkd.KADTDHook',
        teacher=_base_.teacher,
        losses=dict(loss_kd=dict(adjust=None)))
]
