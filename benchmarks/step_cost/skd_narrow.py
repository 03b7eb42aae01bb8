# A discriminator of a quarter of the width
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=_base_.teacher,
        losses=dict(loss_ho=dict(width=16)))
]
