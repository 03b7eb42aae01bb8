# DeepLabV3+ on VOC12Aug: ResNet-101 teaches ResNet-18
_base_ = '../students/deeplabv3plus_r18-d8_4xb4-40k_voc12aug-512x512.py'
teacher = dict(
    config='mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb4-40k_voc12aug-512x512.py',  # noqa: E501
    checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3plus/deeplabv3plus_r101-d8_512x512_40k_voc12aug/deeplabv3plus_r101-d8_512x512_40k_voc12aug_20200613_205333-faf03387.pth')  # noqa: E501
