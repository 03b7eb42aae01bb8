# Faster R-CNN on COCO: ResNet-101 teaches ResNet-50
_base_ = [
    '../mmselfkd.py', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
]
teacher = dict(
    config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth')  # noqa: E501
