"""A data set without a part of it, or that part."""
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmselfkd.errors import ConfigError
from mmselfkd.registry import DATASETS


@DATASETS.register_module()
def dataset_part(dataset: Any, share: float, held: bool) -> BaseDataset:
    """Build a data set, and take a random part of it, or what that leaves.

    The part follows from the number of samples and from ``share`` alone, so
    it is the same in every run. What is given back is the host's own data
    set, by ``get_subset`` of mmengine.

    Args:
        dataset (dict): Config of a data set of a host, without wrappers.
        share (float): The size of the part, between 0 and 1.
        held (bool): The part; if not, the other samples. The part is in
            ``test_mode``.

    Raises:
        ConfigError: The data set cannot be divided, or has too few samples.

    Example:
        >>> scenes = dict(type='mmselfkd.ToySegDataset', length=20)
        >>> [len(dataset_part(scenes, 0.1, held)) for held in (True, False)]
        [2, 18]
    """
    built = MMENGINE_DATASETS.build(dataset)
    if not isinstance(built, BaseDataset):
        raise ConfigError(
            f'dataset.type = {dataset["type"]!r}: a part can be taken of what '
            "derives from mmengine's BaseDataset only")
    built.full_init()
    count = round(share * len(built))
    if not 0 < count < len(built):
        raise ConfigError(
            f'share = {share!r}: {count} of the {len(built)} samples of '
            f'{dataset["type"]} are apart; at least one is needed, and one '
            'that is left')
    order = np.random.default_rng(0).permutation(len(built))
    part = built.get_subset(sorted(
        (order[:count] if held else order[count:]).tolist()))
    part.test_mode = held or part.test_mode
    return part
