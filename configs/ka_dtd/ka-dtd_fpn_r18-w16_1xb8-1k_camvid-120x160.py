# by the average of the second half of the run; the average forgets 100
# iterations at a time, as the run has 1000 only
_base_ = '../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
custom_hooks = [
    dict(
        type='mmselfkd.KADTDHook',
        teacher=dict(type='EMATeacher', momentum=0.01, begin=500))
]
