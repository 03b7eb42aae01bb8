# taught by EfficientNet-Lite2 (TEACHER: its checkpoint), without discriminator
_base_ = './camvid_student.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config='{{ fileDirname }}/camvid_teacher.py',
            checkpoint='{{$TEACHER:teacher.pth}}'),
        losses=dict(loss_ho=None))
]
