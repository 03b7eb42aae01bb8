# FPN on CamVid, for a CPU: ResNet-18 of width 48 teaches one of width 16.
# The checkpoint is what training the teacher by its config leaves behind
_base_ = '../../camvid/fpn_r18-w16_1xb8-1k_camvid-120x160.py'
teacher = dict(
    config='mmselfkd::camvid/fpn_r18-w48_1xb8-2k_camvid-120x160.py',
    checkpoint='work_dirs/fpn_r18-w48_1xb8-2k_camvid-120x160/iter_2000.pth')
