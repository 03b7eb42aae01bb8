# DeepLabV3+ on VOC12Aug: ResNet-101 teaches ResNet-18, for which mmseg has
# no config on this data: its ResNet-50 one, with the widths of ResNet-18
_base_ = [
    '../mmselfkd.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512.py'
]
model = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(
        channels=128, in_channels=512, c1_channels=12, c1_in_channels=64),
    auxiliary_head=dict(channels=64, in_channels=256))
teacher = dict(
    config='mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb4-40k_voc12aug-512x512.py',  # noqa: E501
    checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3plus/deeplabv3plus_r101-d8_512x512_40k_voc12aug/deeplabv3plus_r101-d8_512x512_40k_voc12aug_20200613_205333-faf03387.pth')  # noqa: E501
