# pair-wise and holistic: a depth map has no classes for the pixel-wise term.
# With the pair-wise weight 10 of the preset the student loses
_base_ = './depth_r18-w8_1xb8-1k_toy-64x64.py'
teacher = 'depth_r18-w32_1xb8-1k_toy-64x64'
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config=f'mmselfkd::toy/{teacher}.py',
            checkpoint=f'work_dirs/{teacher}/iter_1000.pth'),
        losses=dict(
            loss_pi=None,
            loss_pa=dict(loss_weight=1.0),
            loss_ho=dict(source='depth')))
]
