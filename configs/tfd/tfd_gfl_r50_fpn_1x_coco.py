_base_ = ['../_base_/mmselfkd.py', 'mmdet::gfl/gfl_r50_fpn_1x_coco.py']
custom_hooks = [dict(type='mmselfkd.TFDHook')]
