# Pair-wise similarities of the fused map alone
_base_ = './student.py'
custom_hooks = [
    dict(
        type='mmselfkd.DistillHook',
        teacher=_base_.teacher,
        losses=dict(
            loss_pairwise=dict(type='PairwiseLoss', source='features')))
]
