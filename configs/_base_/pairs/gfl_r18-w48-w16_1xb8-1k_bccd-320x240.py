# GFL on BCCD, for a CPU: ResNet-18 of width 48 teaches one of width 16.
# The checkpoint is what training the teacher by its config leaves behind
_base_ = '../../bccd/gfl_r18-w16_1xb8-1k_bccd-320x240.py'
teacher = dict(
    config='mmselfkd::bccd/gfl_r18-w48_1xb8-1k_bccd-320x240.py',
    checkpoint='work_dirs/gfl_r18-w48_1xb8-1k_bccd-320x240/iter_1000.pth')
