"""The next view of every sample in the next epoch."""
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import Sampler

from mmselfkd.errors import ConfigError
from mmselfkd.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ViewSampler(Sampler):
    """Another sampler, whose epochs go through the views of a FixedViews.

    In epoch e sample i comes in view ``e % views``, as index
    ``i + n * (e % views)`` for n samples. A sampler that ends is told the
    epoch by the loop. One that never ends (InfiniteSampler) begins a new one
    after every n indices of all ranks together. Order and share of a rank
    are those of the other sampler, on resume too.

    Args:
        dataset (FixedViews): Of the loader; mmengine fills it in.
        sampler (dict): Config of the other sampler.
        seed (int, optional): For that; mmengine fills it in.

    Raises:
        ConfigError: The data set has no views.
    """

    def __init__(self, dataset: Any, sampler: dict,
                 seed: int | None = None) -> None:
        if not hasattr(dataset, 'locate'):
            raise ConfigError(
                'train_dataloader.sampler = ViewSampler: the data set is a '
                f'{type(dataset).__name__} and has no views; wrap it, '
                "dataset=dict(type='mmselfkd.FixedViews', views=..., "
                'dataset=...)')
        self.dataset = dataset
        self.sampler: Any = MMENGINE_DATA_SAMPLERS.build(
            sampler, default_args=dict(dataset=dataset, seed=seed))
        self.epoch = 0
        self._rank, self._ranks = get_dist_info()
        self._place = self._rank  # of the next index, among all ranks'
        # so mmengine and mmdet name the stream of those that never end
        self._is_endless = hasattr(self.sampler, '_infinite_indices')
        if hasattr(self.sampler, 'skip'):  # mmengine looks whether there is
            self.skip = self._skip

    def __iter__(self) -> Iterator[int]:
        size, views = self.dataset.size, self.dataset.views
        if not self._is_endless:
            offset = size * (self.epoch % views)
            yield from (index + offset for index in self.sampler)
            return
        for index in self.sampler:
            epoch = self._place // len(self.dataset)
            self._place += self._ranks
            yield index + size * (epoch % views)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins, from the loop."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        """Go on behind so many indices of this rank, counted from the first.

        A resumed run does so.
        """
        self.sampler.skip(num_samples)
        self._place = self._rank + num_samples * self._ranks
