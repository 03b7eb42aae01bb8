# Inter-class similarity of the class scores
_base_ = './student.py'
custom_hooks = [dict(type='mmselfkd.ICSDHook', teacher=_base_.teacher)]
