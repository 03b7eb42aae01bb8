# every eighth image of train, for student and teacher
# (EIGHTH_TEACHER: the checkpoint of camvid_eighth_teacher)
_base_ = './camvid_eighth_student.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config='{{ fileDirname }}/camvid_eighth_teacher.py',
            checkpoint='{{$EIGHTH_TEACHER:eighth_teacher.pth}}'),
        losses=dict(loss_ho=None))
]
