# the levels of the neck, and the masks of the student's RoIs
_base_ = '../_base_/pairs/mask-rcnn_r101-r50_fpn_1x_coco.py'
custom_hooks = [
    dict(
        type='mmselfkd.NFDHook',
        teacher=_base_.teacher,
        losses=dict(
            loss_kd_mask=dict(
                type='KDLoss',
                source='roi_head.mask_head.conv_logits',
                ignore_index=None)))
]
