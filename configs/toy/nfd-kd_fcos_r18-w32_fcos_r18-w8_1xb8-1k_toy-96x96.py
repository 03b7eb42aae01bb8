# the levels of the neck, and the class scores. Most places of a scene are
# ground: half of the weight of the scores goes to the objects, equally
_base_ = './fcos_r18-w8_1xb8-1k_toy-96x96.py'
teacher = 'fcos_r18-w32_1xb8-1k_toy-96x96'
custom_hooks = [
    dict(
        type='mmselfkd.NFDHook',
        teacher=dict(
            config=f'mmselfkd::toy/{teacher}.py',
            checkpoint=f'work_dirs/{teacher}/iter_1000.pth'),
        losses=dict(
            loss_kd=dict(
                type='KDLoss',
                source='logits',
                ignore_index=None,
                foreground=0.5,
                loss_weight=2.0)))
]
