# Small roads in mmengine's new style; what the project trains today.
from mmengine.config import read_base
from mmengine.hooks import EMAHook
from roads import CountHook, DrawRoad, RoadDataset

with read_base():
    from .teacher import *  # noqa: F403

model.backbone.update(stem_channels=4, base_channels=4)  # noqa: F405
model.decode_head.update(in_channels=32, channels=8)  # noqa: F405
pipeline[0].update(type=DrawRoad)  # noqa: F405
for loader in (train_dataloader, val_dataloader, test_dataloader):  # noqa: F405
    loader.dataset.update(type=RoadDataset, pipeline=pipeline)  # noqa: F405
custom_hooks = [dict(type=EMAHook, momentum=0.01), dict(type=CountHook)]
