"""The procedural toy dataset: no files, no download."""
from .toy_scenes import Scene, SceneObject, make_scene
from .toy_seg import ToySegDataset

__all__ = ['Scene', 'SceneObject', 'ToySegDataset', 'make_scene']
