"""Recorded views in a run's loader: what would not keep them is refused."""
from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from mmengine.runner import autocast

from ..errors import ConfigError
from ..teachers import RecordedViews

LOADER = 'train_dataloader'


def recorded_views(runner: Any,
                   copied: Callable[[], Any]) -> RecordedViews | None:
    """The views that the training loader gives, once they are known to stay.

    Args:
        runner (Runner): Its ``before_run`` stage is under way.
        copied (Callable): A copy of the loader's data set.

    Returns:
        RecordedViews | None: None where the loader has none.

    Raises:
        ConfigError: Views that the loader would never show, another data set
            around them, a transform that makes another sample of the same
            view, or a hook that changes the pipeline in the run.
    """
    dataset = runner.train_dataloader.dataset
    if not hasattr(dataset, 'locate'):  # a data set inside it may have it
        _refuse_inner(dataset)
        return None
    from ..datasets.fixed_views import irreproducible  # the loader has it

    loader = runner.train_dataloader
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    cfg = runner.cfg.get(LOADER)
    cfg = cfg if isinstance(cfg, dict) else {}
    if dataset.views > 1 and type(sampler).__name__ != 'ViewSampler':
        inner = dict(cfg.get('sampler') or dict(type=type(sampler).__name__))
        raise ConfigError(
            f'{LOADER}.sampler: the data set has {dataset.views} views, of '
            f'which a {type(sampler).__name__} shows the first alone; write '
            f"sampler=dict(type='mmselfkd.ViewSampler', sampler={inner!r})")
    for hook in runner.hooks:
        if hasattr(hook, 'switch_pipeline') or hasattr(
                hook, 'skip_type_keys'):
            raise ConfigError(
                f'custom_hooks: a {type(hook).__name__} changes the pipeline '
                f'in the run, and the views of {LOADER}.dataset would not '
                'stay what they are; leave out one of the two')
    name = irreproducible(copied())
    if name is not None:
        raise ConfigError(
            f'{LOADER}.dataset: {name} does not make the same sample of the '
            'same view again. FixedViews sets the generators of Python, NumPy '
            'and torch; a transform with a memory (CachedMosaic) or a '
            'generator of its own (albumentations) does not follow them; use '
            'another one (Mosaic)')
    config = cfg.get('dataset')
    found = RecordedViews(
        dataset, config if isinstance(config, dict) else None)
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        wrapper, *_ = wrapper.values()
    if isinstance(wrapper, AmpOptimWrapper):
        found.autocast = partial(autocast, dtype=wrapper.cast_dtype)
    return found


def _refuse_inner(dataset: Any) -> None:
    """FixedViews inside another data set."""
    inner = vars(dataset).get('dataset')
    for part in [inner] if inner is not None else vars(dataset).get(
            'datasets', ()):
        if hasattr(part, 'locate'):
            raise ConfigError(
                f'{LOADER}.dataset = {type(dataset).__name__}: has FixedViews '
                'inside; that must be the outermost, FixedViews(dataset='
                f'{type(dataset).__name__}(...))')
        _refuse_inner(part)
