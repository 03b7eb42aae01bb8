_base_ = './fpn_r18-w8_1xb8-1k_toy-64x64.py'
teacher = 'fpn_r18-w32_1xb8-1k_toy-64x64'
custom_hooks = [
    dict(
        type='mmselfkd.NFDHook',
        teacher=dict(
            config=f'mmselfkd::toy/{teacher}.py',
            checkpoint=f'work_dirs/{teacher}/iter_1000.pth'))
]
