# FCOS on COCO: ResNeXt-101 teaches MobileNetV2. The paper's teacher is a
# ResNeXt-101-32x8d; mmdet has weights for the one of 64x4d only
_base_ = '../students/fcos_mobilenet-v2_fpn_gn-head_1x_coco.py'
teacher = dict(
    config='mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8.pth')  # noqa: E501
