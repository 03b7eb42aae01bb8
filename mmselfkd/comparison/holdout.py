"""Evaluation on a part of the train set instead of val."""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import init_default_scope

from ..datasets import dataset_part
from ..errors import ConfigError
from .recording import write_json

ANNOTATIONS = 'holdout.json'  # in the folder of the runs


def hold_out(cfg: Any, share: float, folder: Path) -> int:
    """Take a random part out of the train set, and evaluate on that.

    ``train_dataloader`` loses the part, ``val_dataloader`` gets it with the
    pipeline of val. A metric with an ``ann_file`` of COCO's format gets one
    with the images of the part.

    Args:
        cfg (Config): Of a run; changed in place.
        share (float): The size of the part, between 0 and 1.
        folder (Path): Where the ``ann_file`` lies.

    Returns:
        int: The number of images in the part.

    Raises:
        ConfigError: It cannot be done with this data set.
    """
    if not 0 < share < 1:
        raise ConfigError(f'--holdout {share!r}: a share of the train set, '
                          'between 0 and 1 without these, such as 0.1')
    init_default_scope(cfg.get('default_scope'))
    val = next(_leaves(cfg.val_dataloader.dataset.to_dict()))
    train = cfg.train_dataloader.dataset.to_dict()
    held = [_part(dict(leaf, pipeline=val.get('pipeline', [])), share, True)
            for leaf in _leaves(train)]
    parts = [dataset_part(**{key: value for key, value in config.items()
                             if key != 'type'}) for config in held]
    cfg.train_dataloader.dataset = _without(train, share)
    cfg.val_dataloader.dataset = held[0] if len(held) == 1 else dict(
        type='mmengine.ConcatDataset', datasets=held)
    for metric in _metrics(cfg):
        if metric.get('ann_file'):
            if len(parts) > 1:
                raise ConfigError(
                    f'val_evaluator.ann_file = {metric["ann_file"]!r}: one '
                    f'annotation file, but train has {len(parts)} data sets')
            metric['ann_file'] = _annotations(parts[0], folder)
    return sum(map(len, parts))


def _leaves(dataset: Any) -> Iterator[dict]:
    """The configs of the data sets that wrappers wrap."""
    if 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from _leaves(part)
    elif 'dataset' in dataset:
        yield from _leaves(dataset['dataset'])
    else:
        yield dataset


def _without(dataset: dict, share: float) -> dict:
    """The same wrappers around what is left."""
    if 'datasets' in dataset:
        return dict(dataset, datasets=[
            _without(part, share) for part in dataset['datasets']])
    if 'dataset' in dataset:
        return dict(dataset, dataset=_without(dataset['dataset'], share))
    return _part(dataset, share, False)


def _part(dataset: dict, share: float, held: bool) -> dict:
    return dict(type='mmselfkd.dataset_part', dataset=dataset, share=share,
                held=held)


def _metrics(cfg: Any) -> list[Any]:
    metrics = cfg.val_evaluator
    metrics = metrics if isinstance(metrics, list) else [metrics]
    return [part for metric in metrics
            for part in metric.get('metrics', [metric])]


def _annotations(part: Any, folder: Path) -> str:
    """A file of COCO's format with the images of a data set alone."""
    kept = {part.get_data_info(i).get('img_id') for i in range(len(part))}
    try:
        content = json.loads(Path(part.ann_file).read_text())
        images = [image for image in content['images'] if image['id'] in kept]
        content.update(images=images, annotations=[
            row for row in content['annotations'] if row['image_id'] in kept])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'train_dataloader.dataset.ann_file = {part.ann_file!r}: the '
            'metric of val reads a file of COCO annotations, and this is '
            f'none that can be divided ({error!r})') from error
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / ANNOTATIONS).resolve()
    write_json(path, content)
    return str(path)
