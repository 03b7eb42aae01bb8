"""Views and parts of data sets, toy scenes, a transform for few labels."""
from .dataset_part import dataset_part
from .fixed_views import FixedViews
from .keep_labels import KeepLabels
from .toy_depth import ToyDepthDataset
from .toy_det import ToyDetDataset
from .toy_scenes import Scene, SceneObject, make_scene
from .toy_seg import ToySegDataset
from .view_sampler import ViewSampler

__all__ = [
    'FixedViews', 'KeepLabels', 'Scene', 'SceneObject', 'ToyDepthDataset',
    'ToyDetDataset', 'ToySegDataset', 'ViewSampler', 'dataset_part',
    'make_scene'
]
