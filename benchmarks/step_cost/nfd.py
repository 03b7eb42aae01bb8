# Normalised features
_base_ = './student.py'
custom_hooks = [dict(type='mmselfkd.NFDHook', teacher=_base_.teacher)]
