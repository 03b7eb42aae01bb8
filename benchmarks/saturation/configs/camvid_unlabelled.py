# the same, and the other images of train without their labels (with
# SPLIT=eighth or quarter)
_base_ = './camvid_taught.py'
custom_hooks = _base_.custom_hooks
custom_hooks[-1].unlabelled = dict(
    dataloader=dict(
        batch_size=8,
        num_workers=1,
        persistent_workers=True,
        dataset=dict(
            _base_.train_dataloader.dataset,
            indices=sorted(
                {*range(367)} - {*_base_.train_dataloader.dataset.indices}),
            # a crop with cat_max_ratio would look at the labels
            pipeline=[{
                key: value
                for key, value in transform.items() if key != 'cat_max_ratio'
            } for transform in _base_.train_pipeline
                      if transform['type'] != 'LoadAnnotations'])))
