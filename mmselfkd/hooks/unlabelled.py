"""A second stream of batches: images without labels."""
import copy
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn

from .. import randomness
from ..errors import ConfigError, blamed_on
from ..hosts import host_of


class UnlabelledImages:
    """Batches of the loader in ``unlabelled.dataloader``, one an iteration.

    The Runner's own :meth:`build_dataloader` makes it, with the seed of the
    run, so a sampler splits the images over the ranks. Without a sampler in
    the config it is an endless, shuffled one. After a stop the stream goes on
    at the iteration of the run, by mmengine's own iterator. What the pipeline
    draws without workers follows from seed, rank and iteration, so neither a
    stop nor this stream changes what the labelled pipeline draws.

    Args:
        runner (Runner): Its ``before_run`` stage is under way.
        cfg (dict): Of the loader, as ``train_dataloader`` is.
        key (str): Where it stands in the config, for the errors.

    Raises:
        ConfigError: It cannot be built, or has no image.
    """

    def __init__(self, runner: Any, cfg: Any, key: str) -> None:
        self.key, self._seed = f'{key}.dataloader', runner.seed
        if not isinstance(cfg, dict) or 'dataset' not in cfg:
            raise ConfigError(f'{self.key} = {cfg!r}: dict(batch_size=..., '
                              'dataset=dict(...)) is needed, as in '
                              'train_dataloader')
        cfg = copy.deepcopy(dict(cfg))
        cfg.setdefault('sampler', dict(type='InfiniteSampler', shuffle=True))
        with blamed_on(self.key), randomness.preserved():
            self._loader = runner.build_dataloader(
                cfg, seed=runner.seed, diff_rank_seed=(
                    runner._randomness_cfg.get('diff_rank_seed', False)))
        dataset: Any = self._loader.dataset
        if not len(dataset):
            raise ConfigError(f'{self.key}.dataset: has no image')
        if self._loader.drop_last and (self._loader.batch_size or 1) > len(
                self._loader.sampler):
            raise ConfigError(
                f'{self.key}.batch_size = {self._loader.batch_size}: with '
                f'drop_last no batch is left of {len(dataset)} images')
        self._iterator: Any = None

    def two_samples(self, student: nn.Module) -> tuple[torch.Tensor, Any]:
        """A preprocessed batch of two images, without a trace in the stream.

        Raises:
            ConfigError: The pipeline or the student's preprocessor fails.
        """
        dataset: Any = self._loader.dataset
        with blamed_on(f'{self.key}.dataset'), randomness.preserved():
            items = [copy.deepcopy(dataset[i % len(dataset)])
                     for i in range(2)]
        for item in items:
            if not isinstance(item, dict) or 'inputs' not in item:
                raise ConfigError(
                    f'{self.key}.dataset.pipeline: gives '
                    f'{sorted(item) if isinstance(item, dict) else item!r}; '
                    "it must load an image and end with 'PackSegInputs' or "
                    "'PackDetInputs'")
            mean = getattr(student.data_preprocessor, 'mean', None)
            if mean is not None and mean.numel() not in (
                    1, len(item['inputs'])):
                # normalisation would spread one channel over three
                raise ConfigError(
                    f'{self.key}.dataset: its images have '
                    f'{len(item["inputs"])} channels, '
                    f'model.data_preprocessor.mean has {mean.numel()}')
        with blamed_on(self.key), randomness.preserved():
            return _prepared(student, self._loader.collate_fn(items))

    def start(self, iteration: int) -> None:
        """Go to where a run of so many iterations has stopped."""
        self._iterator = _InfiniteDataloaderIterator(self._loader)
        if iteration and hasattr(self._iterator, 'skip_iter'):
            self._iterator.skip_iter(iteration)
        else:  # an mmengine without it
            for past in range(iteration):
                self._next(past)

    def stop(self) -> None:
        """End the workers."""
        self._iterator = None

    def batch(self, student: nn.Module,
              iteration: int) -> tuple[torch.Tensor, Any]:
        """Inputs and samples of this iteration, without their labels."""
        with randomness.derived(self._seed, get_rank(), iteration,
                                'preprocessing of unlabelled images'):
            return _prepared(student, self._next(iteration))

    def _next(self, iteration: int) -> Any:
        with randomness.derived(self._seed, get_rank(), iteration,
                                'unlabelled images'):
            return next(self._iterator)


def _prepared(student: Any, batch: Any) -> tuple[torch.Tensor, Any]:
    host = host_of(student)
    inputs, samples = host.unpack(student.data_preprocessor(batch, True))
    return inputs, host.without_labels(samples)
