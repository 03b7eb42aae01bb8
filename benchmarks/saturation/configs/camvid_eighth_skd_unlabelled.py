# the same, and the other images of train without their labels
_base_ = './camvid_eighth_skd.py'
custom_hooks = _base_.custom_hooks
custom_hooks[-1].unlabelled = dict(
    dataloader=dict(
        batch_size=8,
        num_workers=1,
        persistent_workers=True,
        dataset=dict(
            _base_.train_dataloader.dataset,
            indices=sorted({*range(367)} - {*range(0, 367, 8)}),
            pipeline=[
                transform for transform in _base_.train_pipeline
                if transform['type'] != 'LoadAnnotations'
            ])))
