# SKD without discriminator, four views
_base_ = './camvid_cached.py'
custom_hooks = _base_.custom_hooks
custom_hooks[-1].update(
    type='mmselfkd.SKDHook', losses=dict(loss_ho=None))
train_dataloader = dict(dataset=dict(views=4))
