# labels of one training image in eight, the teacher on all of them
_base_ = '../camvid/fpn_r18-w16-semi_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config='mmselfkd::camvid/fpn_r18-w48_1xb8-2k_camvid-120x160.py',
            checkpoint='work_dirs/fpn_r18-w48_1xb8-2k_camvid-120x160/'
            'iter_2000.pth'),
        losses=dict(loss_ho=None))
]
