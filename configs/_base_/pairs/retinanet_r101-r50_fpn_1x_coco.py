# RetinaNet on COCO: ResNet-101 teaches ResNet-50
_base_ = ['../mmselfkd.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
teacher = dict(
    config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth')  # noqa: E501
