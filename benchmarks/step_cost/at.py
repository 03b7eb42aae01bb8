# Attention transfer at the four levels of the backbone
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.DistillHook',
        teacher=_base_.teacher,
        losses=dict(loss_at=dict(type='ATLoss', source='backbone')))
]
