# Soft labels and pair-wise similarities
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=_base_.teacher,
        losses=dict(loss_ho=None))
]
