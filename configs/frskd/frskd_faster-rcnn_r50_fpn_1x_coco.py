# the RoIs of student and self-teacher differ: soft labels of the proposals
_base_ = [
    '../_base_/mmselfkd.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
]
custom_hooks = [
    dict(
        type='mmselfkd.FRSKDHook',
        losses=dict(loss_kd=dict(source='rpn_head.rpn_cls')))
]
