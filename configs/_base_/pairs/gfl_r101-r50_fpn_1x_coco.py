# GFL on COCO: ResNet-101 teaches ResNet-50
_base_ = ['../mmselfkd.py', 'mmdet::gfl/gfl_r50_fpn_1x_coco.py']
teacher = dict(
    config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth')  # noqa: E501
