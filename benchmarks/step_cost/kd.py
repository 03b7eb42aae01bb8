# Soft labels alone
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.DistillHook',
        teacher=_base_.teacher,
        losses=dict(loss_kd=dict(type='KDLoss', source='logits')))
]
