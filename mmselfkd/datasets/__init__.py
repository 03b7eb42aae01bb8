"""The procedural toy dataset, and a transform for unlabelled images."""
from .keep_labels import KeepLabels
from .toy_scenes import Scene, SceneObject, make_scene
from .toy_seg import ToySegDataset

__all__ = [
    'KeepLabels', 'Scene', 'SceneObject', 'ToySegDataset', 'make_scene'
]
