# SKD, pi and pa, by the moving average of the student
_base_ = '../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(type='EMATeacher', momentum=0.01, begin=200),
        losses=dict(loss_ho=None))
]
