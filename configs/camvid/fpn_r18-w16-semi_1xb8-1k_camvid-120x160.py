# the student without a teacher, labels of one training image in eight
_base_ = './fpn_r18-w16_1xb8-1k_camvid-120x160.py'
model = dict(decode_head=dict(loss_decode=dict(avg_non_ignore=True)))
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='mmselfkd.KeepLabels', one_in=8), *_base_.train_pipeline[2:]
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
