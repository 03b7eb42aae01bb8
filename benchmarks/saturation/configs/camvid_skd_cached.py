# the same, the teacher asked once for each image in each view (CACHE: where)
_base_ = './camvid_skd.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmselfkd.FixedViews',
        views=4,
        dataset=_base_.train_dataloader.dataset),
    sampler=dict(
        _delete_=True,
        type='mmselfkd.ViewSampler',
        sampler=_base_.train_dataloader.sampler))
custom_hooks = _base_.custom_hooks
custom_hooks[-1].teacher.cache = dict(dir='{{$CACHE:answers}}')
