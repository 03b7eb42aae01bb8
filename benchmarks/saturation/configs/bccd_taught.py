# taught by FCOS on EfficientNet-Lite2 (TEACHER: its checkpoint); the method by
# options, as custom_hooks.1.type=mmselfkd.CWDHook
_base_ = './bccd_student.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmselfkd.PKDHook',
        teacher=dict(
            config='{{ fileDirname }}/bccd_teacher.py',
            checkpoint='{{$TEACHER:teacher.pth}}'))
]
