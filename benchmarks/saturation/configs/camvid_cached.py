# taught by the same teacher, asked once for each image in each view (CACHE:
# where)
_base_ = './camvid_taught.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmselfkd.FixedViews',
        views=16,
        dataset=_base_.train_dataloader.dataset),
    sampler=dict(
        _delete_=True,
        type='mmselfkd.ViewSampler',
        sampler=_base_.train_dataloader.sampler))
custom_hooks = _base_.custom_hooks
custom_hooks[-1].teacher.cache = dict(dir='{{$CACHE:answers}}')
