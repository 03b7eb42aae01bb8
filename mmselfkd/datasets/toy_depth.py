"""The toy scenes as a depth dataset of mmseg."""

from typing import Any

from mmselfkd.registry import DATASETS

from .toy_dataset import ToyDataset
from .toy_seg import BaseSegDataset


@DATASETS.register_module()
class ToyDepthDataset(ToyDataset, BaseSegDataset):
    """Scenes of :func:`make_scene` with the distance of what is seen.

    mmseg's own ``LoadDepthAnnotation(depth_rescale_factor=1e-3)`` reads the
    depth maps: the files are in whole millimetres, as NYU's are, and what it
    gives is in metres, from 1 to 10.

    Args:
        length, split, size, seed: See :class:`ToyDataset`.
        **kwargs: As ``BaseSegDataset`` takes them.

    Raises:
        ImportError: Without mmseg.
    """

    METAINFO: dict[str, Any] = dict(classes=(), palette=[])

    def load_data_list(self) -> list[dict]:
        """One entry a scene, as mmseg's ``NYUDataset`` makes them."""
        return [
            dict(
                img_path=paths.image,
                depth_map_path=paths.depth,
                seg_fields=[]) for paths in self.paths()
        ]
