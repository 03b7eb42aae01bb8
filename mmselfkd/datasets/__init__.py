"""Recorded views, the procedural toy datasets, a transform for few labels."""
from .fixed_views import FixedViews
from .keep_labels import KeepLabels
from .toy_depth import ToyDepthDataset
from .toy_det import ToyDetDataset
from .toy_scenes import Scene, SceneObject, make_scene
from .toy_seg import ToySegDataset
from .view_sampler import ViewSampler

__all__ = [
    'FixedViews', 'KeepLabels', 'Scene', 'SceneObject', 'ToyDepthDataset',
    'ToyDetDataset', 'ToySegDataset', 'ViewSampler', 'make_scene'
]
