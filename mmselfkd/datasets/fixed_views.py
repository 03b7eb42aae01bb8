"""Recorded views: every sample in so many versions, each always the same."""
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmselfkd import randomness
from mmselfkd.checks import check_integer
from mmselfkd.errors import config_errors
from mmselfkd.registry import DATASETS

MADE_TWICE = 8  # samples; a transform with a memory needs some to show it


@DATASETS.register_module()
class FixedViews:
    """A data set that gives each sample in ``views`` versions, no others.

    View v of sample i is what the pipeline makes of it with the random
    generators (of Python, NumPy and torch) set from (seed, i, v); they are
    put back afterwards. So it is the same in every epoch, process and run,
    also where a transform mixes several images (mosaic, mixup). It is the
    outermost data set of a loader. Index j is sample ``j % n`` in view
    ``j // n``, from 0 to ``n * views - 1``; the length stays n, and
    :class:`~mmselfkd.datasets.ViewSampler` takes the next view in the next
    epoch.

    What each sample is goes with it in the meta information of its data
    sample: ``view`` is (i, v), ``view_digest`` a hash of its pixels.

    Args:
        dataset (dict | Dataset): The data set, or its config.
        views (int): Versions of a sample. 1 stands for no augmentation that
            changes.
        seed (int): Another one gives other versions. Defaults to 0.

    Raises:
        ConfigError: ``views`` is below 1 or ``seed`` below 0.

    Example:
        >>> dataset = FixedViews(
        ...     dict(type='mmselfkd.ToySegDataset', length=3, pipeline=[
        ...         dict(type='mmcv.LoadImageFromFile'),
        ...         dict(type='mmcv.RandomResize', scale=(64, 64),
        ...              ratio_range=(0.5, 2.0)),
        ...         dict(type='mmseg.PackSegInputs')]), views=2)
        >>> len(dataset), dataset.locate(4)
        (3, (1, 1))
        >>> dataset[4]['data_samples'].view
        (1, 1)
    """

    def __init__(self, dataset: Any, views: int, seed: int = 0) -> None:
        with config_errors():
            check_integer('FixedViews.views', views, 1)
            check_integer('FixedViews.seed', seed, 0)
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(
            dataset, dict) else dataset
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        self.views, self.seed = views, seed
        self.size = len(self.dataset)
        # called with each data sample, in the worker that made it
        self.companions: dict[str, Callable[[Any], None]] = {}

    def __getattr__(self, name: str) -> Any:
        """What else a sampler or hook asks the data set for."""
        if name.startswith('__') or name == 'dataset':  # while it is copied
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return self.size

    def locate(self, index: int) -> tuple[int, int]:
        """The sample and the view of an index.

        Raises:
            IndexError: It is beyond the last view.
        """
        view, sample = divmod(index, self.size)
        if not 0 <= view < self.views:
            raise IndexError(
                f'{index}: {self.size} samples in {self.views} views have '
                f'the indices 0 to {self.size * self.views - 1}')
        return sample, view

    def get_data_info(self, index: int) -> dict:
        """The annotation of a sample, whatever the view."""
        return self.dataset.get_data_info(self.locate(index)[0])

    def __getitem__(self, index: int) -> Any:
        sample, view = self.locate(index)
        with randomness.derived(self.seed, sample, view):
            item = self.dataset[sample]
        try:
            inputs, element = item['inputs'], item['data_samples']
            element.set_metainfo(dict(
                view=(sample, view), view_digest=digest(inputs)))
        except (KeyError, TypeError, AttributeError) as error:
            raise TypeError(
                f'FixedViews.dataset: gives a {type(item).__name__}; a dict '
                'of inputs, a tensor, and data_samples is needed, as '
                'PackSegInputs and PackDetInputs make it') from error
        for accompany in self.companions.values():
            accompany(element)
        return item


def digest(pixels: Any) -> str:
    """A hash of what a tensor or array holds, its shape and type included.

    Example:
        >>> digest(np.zeros((3, 2))) == digest(np.zeros((2, 3)))
        False
    """
    array = np.ascontiguousarray(pixels)
    word = hashlib.blake2b(f'{array.shape} {array.dtype}'.encode(),
                           digest_size=8)
    word.update(array.data)
    return word.hexdigest()


def nested(dataset: Any) -> Iterator[Any]:
    """A data set and those that it wraps."""
    yield dataset
    inner = vars(dataset).get('dataset', vars(dataset).get('_dataset'))
    for part in [inner] if inner is not None else vars(dataset).get(
            'datasets', ()):
        yield from nested(part)


def irreproducible(dataset: Any) -> str | None:
    """What does not make the same sample of the same view again.

    Some samples are made twice, with the others in between. Transforms with
    a memory and those with a generator of their own are found so.

    Args:
        dataset (FixedViews): Transforms with a memory go on from there.

    Returns:
        str | None: The transform, or the data set, that made the first
        difference; None if there is none.
    """
    log: list[tuple[str, str]] = []

    def made(index: int) -> tuple[str, list[tuple[str, str]]]:
        log.clear()
        item = dataset[index]
        return item['data_samples'].metainfo['view_digest'], list(log)

    with _watched(dataset.dataset, log):
        indices = range(min(len(dataset), MADE_TWICE))
        twice = zip([made(i) for i in indices], [made(i) for i in indices])
    for first, second in twice:
        if first[0] != second[0]:
            return next((name for (name, one), (_, other) in zip(
                first[1], second[1]) if one != other),
                type(dataset.dataset).__name__)
    return None


@contextmanager
def _watched(dataset: Any, log: list[tuple[str, str]]) -> Iterator[None]:
    """Every transform notes in ``log`` what it made."""
    with ExitStack() as stack:
        for part in nested(dataset):
            pipeline = getattr(part, 'pipeline', None)
            steps = getattr(pipeline, 'transforms', pipeline)
            if isinstance(steps, list):
                stack.callback(steps.__setitem__, slice(None), list(steps))
                steps[:] = [_Watched(step, log) for step in steps]
        yield


class _Watched:
    """A transform that notes what it made of the image."""

    def __init__(self, transform: Any, log: list[tuple[str, str]]) -> None:
        self._transform, self._log = transform, log

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_transform':
            raise AttributeError(name)
        return getattr(self._transform, name)

    def __call__(self, results: Any) -> Any:
        results = self._transform(results)
        image = (results or {}).get('inputs', (results or {}).get('img'))
        self._log.append((type(self._transform).__name__, '' if image is None
                          else digest(image)))
        return results
