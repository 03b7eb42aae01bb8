# Depth: pair-wise and holistic, as in the paper; a depth map has no classes
# for the pixel-wise term. The checkpoint is what training the teacher by its
# config leaves behind
_base_ = '../nyu/depth_mobilenet-v2_1xb8-40k_nyu-480x480.py'
teacher = dict(
    config='mmselfkd::nyu/depth_r101_1xb8-40k_nyu-480x480.py',
    checkpoint='work_dirs/depth_r101_1xb8-40k_nyu-480x480/iter_40000.pth')
custom_hooks = [
    dict(
        type='mmselfkd.SKDHook',
        teacher=teacher,
        losses=dict(
            loss_pi=None,
            loss_ho=dict(source='depth')))
]
