"""What a Pad in a pipeline adds counts as image, and that is said."""
from types import SimpleNamespace

import pytest
import tiny_detectors
import tiny_runs
from mmengine.registry import DATASETS, DefaultScope

from mmselfkd.hooks.setup import _warn_of_padding

PAD = dict(type='Pad', size=(64, 64))
MOSAIC = dict(type='Mosaic', img_scale=(64, 64))


def warnings_of(cfg, *wrappers):
    """What is said of the data set of a run, inside of data sets."""
    said = []
    dataset = cfg.train_dataloader.dataset.to_dict()
    for wrapper in wrappers:
        dataset = wrapper(dataset)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        _warn_of_padding(DATASETS.build(dataset), SimpleNamespace(
            logger=SimpleNamespace(warning=said.append)))
    return said


def repeated(dataset):
    return dict(type='RepeatDataset', dataset=dataset, times=2)


def joined(dataset):
    return dict(type='ConcatDataset', datasets=[dataset, dataset])


def mixed(dataset):
    return dict(type='MultiImageMixDataset', dataset=dict(
        dataset, pipeline=dataset['pipeline'][:2]),
        pipeline=[MOSAIC, *dataset['pipeline'][2:]])


@pytest.mark.parametrize('step', [
    PAD, dict(type='RandomApply', transforms=[PAD]),
    dict(type='RandomChoice', transforms=[
        [dict(type='Resize', scale=(9, 9))], [PAD]])],
    ids=lambda step: step['type'])
@pytest.mark.parametrize('host, wrappers', [
    ('mmseg', ()), ('mmseg', (repeated, )), ('mmdet', ()),
    ('mmdet', (joined, repeated)), ('mmdet', (mixed, ))])
def test_a_pad_is_told(tmp_path, host, wrappers, step):
    for steps in ([step], []):
        cfg = (tiny_runs.config(tmp_path) if host == 'mmseg' else
               tiny_detectors.config(tmp_path, 'fcos'))
        cfg.train_dataloader.dataset.pipeline[2:2] = steps
        said = warnings_of(cfg, *wrappers)
        assert len(said) == len(steps)
    cfg.train_dataloader.dataset.pipeline.insert(2, step)
    message, = warnings_of(cfg, *wrappers)
    assert 'train_dataloader.dataset.pipeline' in message
    assert 'size_divisor' in message
