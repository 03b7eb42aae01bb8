_base_ = '../_base_/students/deeplabv3plus_r18-d8_4xb4-40k_voc12aug-512x512.py'
custom_hooks = [dict(type='mmselfkd.KADTDHook')]
