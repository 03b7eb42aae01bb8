# taught by EfficientNet-Lite2 (TEACHER: its checkpoint); the method by
# options, as custom_hooks.1.type=mmselfkd.CWDHook
_base_ = './camvid_student.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmselfkd.NFDHook',
        teacher=dict(
            config='{{ fileDirname }}/camvid_teacher.py',
            checkpoint='{{$TEACHER:teacher.pth}}'))
]
