# Soft labels with both options
_base_ = './student.py'
custom_hooks = [dict(type='mmselfkd.KADTDHook', teacher=_base_.teacher)]
