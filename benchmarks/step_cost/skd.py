# SKDHook as shipped
_base_ = './student.py'
custom_hooks = [dict(type='mmselfkd.SKDHook', teacher=_base_.teacher)]
