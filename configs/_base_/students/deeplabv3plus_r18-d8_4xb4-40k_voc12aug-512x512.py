# DeepLabV3+ R-18 on VOC12Aug, for which mmseg has no config: its ResNet-50
# one, with the widths of ResNet-18
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
