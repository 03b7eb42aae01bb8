# SKD, pi and pa, by the student as it was up to 250 iterations ago
_base_ = '../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(type='SnapshotTeacher', interval=250),
        losses=dict(loss_ho=None))
]
