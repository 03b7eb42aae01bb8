_base_ = '../_base_/pairs/fcos_r18-w48-w16_1xb8-1k_bccd-320x240.py'
losses = dict(  # the published form: 2e-5 on each of three levels
    loss_mgd=dict(
        source='features', mask_ratio=0.65, reduction='sum', loss_weight=6e-5),
    loss_cwd=None)
custom_hooks = [
    dict(type='mmselfkd.MGDHook', teacher=_base_.teacher, losses=losses)
]
