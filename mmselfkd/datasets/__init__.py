"""The procedural toy datasets, and a transform for unlabelled images."""
from .keep_labels import KeepLabels
from .toy_depth import ToyDepthDataset
from .toy_det import ToyDetDataset
from .toy_scenes import Scene, SceneObject, make_scene
from .toy_seg import ToySegDataset

__all__ = [
    'KeepLabels', 'Scene', 'SceneObject', 'ToyDepthDataset', 'ToyDetDataset',
    'ToySegDataset', 'make_scene'
]
