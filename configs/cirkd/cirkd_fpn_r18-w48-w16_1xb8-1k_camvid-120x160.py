_base_ = '../_base_/pairs/fpn_r18-w48-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.CIRKDHook',
        teacher=_base_.teacher,
        losses=dict(
            loss_minibatch=dict(pool=2),
            loss_memory=dict(
                pixel_memory=2000,
                region_memory=300,
                pixel_samples=256,
                region_samples=64)))
]
