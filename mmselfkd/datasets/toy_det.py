"""The toy scenes as a dataset for the detectors of mmdet."""
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmselfkd.registry import DATASETS

from .toy_dataset import ToyDataset
from .toy_scenes import CLASSES, PALETTE, Scene, box_around, make_scene


@DATASETS.register_module()
class ToyDetDataset(ToyDataset, BaseDataset):
    """Scenes of :func:`make_scene` with boxes and masks of what is visible.

    The classes are those of the scenes without the ground. An instance is
    what nearer objects leave of an object, its box goes around that. mmdet's
    own ``LoadAnnotations(with_bbox=True, with_mask=True)`` loads it, and
    ``CocoMetric`` needs no ``ann_file`` if ``PackDetInputs`` keeps the ground
    truth: ``meta_keys=(..., 'instances')``.

    The masks are run lengths, since what is visible may fall into parts, or
    have holes; ``poly2mask=False`` cannot read them.

    Args:
        length, split, size, seed: See :class:`ToyDataset`.
        min_visible (int): Pixels that an object must show to be an instance.
            Defaults to 16.
        **kwargs: As mmengine's ``BaseDataset`` takes them.

    Example:
        >>> dataset = ToyDetDataset(length=2, split='val', size=96)
        >>> instance = dataset.get_data_info(0)['instances'][-1]
        >>> dataset.metainfo['classes'][instance['bbox_label']]
        'checked triangle'
        >>> instance['bbox']
        [52.0, 18.0, 96.0, 67.0]
    """

    METAINFO = dict(
        classes=CLASSES[1:], palette=[tuple(c) for c in PALETTE[1:]])

    def __init__(self, length: int, min_visible: int = 16,
                 **kwargs: Any) -> None:
        if min_visible < 1:
            raise ValueError(
                f'min_visible = {min_visible!r}: 1 or more is needed')
        self.min_visible = min_visible
        super().__init__(length, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry a scene, as mmdet's ``CocoDataset`` makes them."""
        size = self.scenes['size']
        return [
            dict(
                img_id=index,
                img_path=paths.image,
                height=size,
                width=size,
                instances=self._instances(make_scene(index, **self.scenes)))
            for index, paths in enumerate(self.paths())
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels in an image, for mmdet's ``ClassBalancedDataset``."""
        return [i['bbox_label'] for i in self.get_data_info(idx)['instances']]

    def _instances(self, scene: Scene) -> list[dict]:
        names = list(self.metainfo['classes'])  # some of them, where asked
        return [
            dict(
                bbox=[float(edge) for edge in box_around(mask)],
                bbox_label=names.index(CLASSES[obj.label]),
                ignore_flag=0,
                mask=run_lengths(mask))
            for obj, mask in zip(scene.objects, scene.visible_masks)
            if CLASSES[obj.label] in names and mask.sum() >= self.min_visible
        ]


def run_lengths(mask: np.ndarray) -> dict:
    """A mask in COCO's uncompressed form.

    Args:
        mask (np.ndarray): (H, W), bool.

    Returns:
        dict: ``size`` (H, W) and ``counts``, the lengths of the runs of
        False, True, False, ... down the columns.

    Example:
        >>> run_lengths(np.array([[True, False], [True, True]]))
        {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    flat = np.concatenate([[False], mask.ravel('F')])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *starts, mask.size])
    return dict(size=list(mask.shape), counts=counts.tolist())
