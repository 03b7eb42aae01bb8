"""The toy scenes as a segmentation dataset of mmseg."""
from typing import Any

from mmselfkd.registry import DATASETS

from .toy_dataset import ToyDataset
from .toy_scenes import CLASSES, PALETTE

try:
    from mmseg.datasets import BaseSegDataset
except ModuleNotFoundError as error:
    if error.name != 'mmseg':
        raise

    class BaseSegDataset:  # type: ignore[no-redef]
        """An error as soon as the dataset is built."""

        def __init__(self, **kwargs: Any) -> None:
            raise ImportError(
                f'{type(self).__name__} is a dataset of mmseg, which is '
                'missing; install onedl-mmsegmentation or mmsegmentation')


@DATASETS.register_module()
class ToySegDataset(ToyDataset, BaseSegDataset):
    """Scenes of :func:`make_scene` with their class maps.

    Args:
        length, split, size, seed: See :class:`ToyDataset`.
        **kwargs: As ``BaseSegDataset`` takes them.

    Raises:
        ImportError: Without mmseg.
    """

    METAINFO = dict(classes=CLASSES, palette=[list(c) for c in PALETTE])

    def load_data_list(self) -> list[dict]:
        """One entry a scene, as ``BaseSegDataset`` makes them of files."""
        return [
            dict(
                img_path=paths.image,
                seg_map_path=paths.labels,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[]) for paths in self.paths()
        ]
