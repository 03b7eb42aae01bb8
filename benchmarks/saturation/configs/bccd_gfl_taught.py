# taught by GFL on EfficientNet-Lite2 (GFL_TEACHER: its checkpoint)
_base_ = './bccd_gfl_student.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmselfkd.LDHook',
        teacher=dict(
            config='{{ fileDirname }}/bccd_gfl_teacher.py',
            checkpoint='{{$GFL_TEACHER:gfl_teacher.pth}}'))
]
