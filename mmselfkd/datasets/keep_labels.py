"""The unlabelled regime: labels of some images only."""
import numpy as np
from mmcv.transforms import BaseTransform

from mmselfkd.checks import is_integer
from mmselfkd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepLabels(BaseTransform):
    """Keep the class map of one image in ``one_in``, ignore the others'.

    Stands behind ``LoadAnnotations``. Images whose place in the data set is
    no multiple of ``one_in`` lose every label, so the task loss does not see
    them, while a distillation loss over every pixel still does. The task
    loss should be a mean over the labelled pixels (in mmseg
    ``avg_non_ignore=True``).

    Args:
        one_in (int): 1 keeps all labels.
        ignore_index (int): The label that the task loss ignores.

    Raises:
        ValueError: If ``one_in`` is not a positive integer, or
            ``ignore_index`` no integer.
    """

    def __init__(self, one_in: int, ignore_index: int = 255) -> None:
        if not is_integer(one_in) or one_in < 1:
            raise ValueError(f'one_in = {one_in!r}: an integer >= 1 is '
                             'needed')
        if not is_integer(ignore_index):
            raise ValueError(
                f'ignore_index = {ignore_index!r}: an integer is needed')
        self.one_in = one_in
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Overwrite ``gt_seg_map`` where the image counts as unlabelled."""
        if results['sample_idx'] % self.one_in:
            # as wide as the samples are packed: a byte has no -100
            results['gt_seg_map'] = np.full_like(
                results['gt_seg_map'], self.ignore_index, dtype=np.int64)
        return results
