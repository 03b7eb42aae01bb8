"""The toy scenes as a segmentation dataset of mmseg."""
from typing import List

from mmselfkd.registry import DATASETS

from .toy_backend import toy_paths
from .toy_scenes import CLASSES, PALETTE, SPLITS

try:
    from mmseg.datasets import BaseSegDataset
except ModuleNotFoundError as error:
    if error.name != 'mmseg':
        raise
    BaseSegDataset = object  # an error as soon as the dataset is built


@DATASETS.register_module()
class ToySegDataset(BaseSegDataset):
    """Scenes of :func:`make_scene` with their class maps.

    The files it lists are drawn when they are read, so the stock transforms
    and visualisation hooks work on it and nothing lies on the disk.

    Args:
        length (int): Number of scenes.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        size (int): Side of the square images in pixels.
        seed (int): Number of the data set; another one gives other scenes.
        **kwargs: As ``BaseSegDataset`` takes them.

    Raises:
        ImportError: Without mmseg.
    """

    METAINFO = dict(classes=CLASSES, palette=[list(c) for c in PALETTE])

    def __init__(self,
                 length: int,
                 split: str = 'train',
                 size: int = 64,
                 seed: int = 0,
                 **kwargs) -> None:
        if BaseSegDataset is object:
            raise ImportError(
                'ToySegDataset is a dataset of mmseg, which is missing; '
                'install onedl-mmsegmentation or mmsegmentation')
        if split not in SPLITS:
            raise ValueError(f'split={split!r}: allowed are {SPLITS}')
        self.length = length
        self.scenes = dict(split=split, size=size, seed=seed)
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """One entry a scene, as ``BaseSegDataset`` makes them of files."""
        paths = (toy_paths(i, **self.scenes) for i in range(self.length))
        return [
            dict(
                img_path=image,
                seg_map_path=labels,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[]) for image, labels in paths
        ]
