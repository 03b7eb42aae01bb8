# The gradient penalty in every fourth turn of the discriminator
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=_base_.teacher,
        losses=dict(loss_ho=dict(penalty_interval=4)))
]
