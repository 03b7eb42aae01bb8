# SKD, pi and pa, by the student as it was up to 250 iterations ago; weights of
# 10, as for a trained teacher, would hold it where it was
_base_ = '../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(type='SnapshotTeacher', interval=250),
        losses=dict(
            loss_pi=dict(loss_weight=1.0),
            loss_pa=dict(loss_weight=1.0),
            loss_ho=None))
]
