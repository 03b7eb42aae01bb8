# Soft labels for PSPNet, R101 teaches R18, both with auxiliary heads, on
# procedural images of 128x256: for the costs only
_base_ = [
    '../../configs/_base_/mmselfkd.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
]
randomness = dict(seed=0)
norm_cfg = dict(type='BN', requires_grad=True)
crop_size = (128, 256)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=crop_size),
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmselfkd.ToySegDataset',
        size=256,
        length=8,
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=crop_size),
            dict(type='PackSegInputs')
        ]))
teacher = dict(
    model=dict(
        _scope_='mmseg',
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=dict(
            type='ResNetV1c', depth=101, num_stages=4,
            out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4),
            strides=(1, 2, 1, 1), norm_cfg=norm_cfg, norm_eval=False,
            style='pytorch', contract_dilation=True),
        decode_head=dict(
            type='PSPHead', in_channels=2048, in_index=3, channels=512,
            pool_scales=(1, 2, 3, 6), dropout_ratio=0.1, num_classes=19,
            norm_cfg=norm_cfg, align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
        auxiliary_head=dict(
            type='FCNHead', in_channels=1024, in_index=2, channels=256,
            num_convs=1, concat_input=False, dropout_ratio=0.1,
            num_classes=19, norm_cfg=norm_cfg, align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
        train_cfg=dict(), test_cfg=dict(mode='whole')))
custom_hooks = [
    dict(
        type='mmselfkd.DistillHook',
        teacher=dict(config=teacher, checkpoint='random'),
        losses=dict(loss_kd=dict(type='KDLoss', source='logits')))
]
