# PSPNet, R101 teaches R18, on procedural images and with an untrained teacher:
# what a step costs depends on neither
_base_ = [
    '../../../configs/_base_/pairs/'
    'pspnet_r101-r18-d8_4xb2-80k_cityscapes-512x1024.py'
]
teacher = dict(checkpoint='random')
randomness = dict(seed=0)
model = dict(pretrained=None)
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmselfkd.ToySegDataset',
        size=1024,
        length=8,
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=(512, 1024)),
            dict(type='PackSegInputs')
        ]))
