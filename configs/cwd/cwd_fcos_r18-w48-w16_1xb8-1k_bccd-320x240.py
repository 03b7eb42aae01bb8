_base_ = '../_base_/pairs/fcos_r18-w48-w16_1xb8-1k_bccd-320x240.py'
losses = dict(  # 10 on each of three levels, as mmrazor has it
    loss_cwd=dict(source='features', temperature=1.0, loss_weight=30.0))
custom_hooks = [
    dict(type='mmselfkd.CWDHook', teacher=_base_.teacher, losses=losses)
]
