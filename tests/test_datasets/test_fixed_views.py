"""FixedViews: a sample in a view is the same, whoever makes it and when."""
import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmselfkd.datasets import FixedViews
from mmselfkd.datasets.fixed_views import (
    digest,
    irreproducible,
    nested,
)
from mmselfkd.errors import ConfigError
from mmselfkd.registry import TRANSFORMS

CROPS = [
    dict(type='mmcv.LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmcv.RandomResize', scale=(64, 64), ratio_range=(0.6, 2.0),
         keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=(32, 32)),
    dict(type='mmcv.RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs')
]


def segments(pipeline=CROPS, views=3, length=4, **kwargs):
    return FixedViews(dict(
        type='mmselfkd.ToySegDataset', size=48, length=length,
        pipeline=copy.deepcopy(pipeline)), views, **kwargs)


def boxes(*mixing, base=(), length=12):
    """Images that transforms make of several."""
    inner = dict(
        type='mmselfkd.ToyDetDataset', size=32, length=length, pipeline=[
            dict(type='mmcv.LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True), *base])
    packed = dict(type='mmdet.PackDetInputs')
    if not mixing:
        inner['pipeline'].append(packed)
        return FixedViews(inner, 2)
    return FixedViews(dict(
        type='mmdet.MultiImageMixDataset', dataset=inner,
        pipeline=[*mixing, packed]), 2)


def pictures(dataset, indices):
    return [dataset[i]['inputs'] for i in indices]


def equal(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def test_a_view_is_always_the_same_and_views_differ():
    dataset = segments()
    once = pictures(dataset, range(12))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert all(equal(once, pictures(dataset, range(11, -1, -1))[::-1]))
    for view in (1, 2):
        assert not any(equal(once[:4], once[4 * view:4 * view + 4]))
    assert not any(equal(once, pictures(segments(seed=1), range(12))))
    # of other samples there may be more; those that were stay what they were
    assert all(equal(once[:4], pictures(segments(length=9), range(4))))


def test_labels_belong_to_the_view():
    first, second = segments()[5], segments()[5]
    maps = [x['data_samples'].gt_sem_seg.data for x in (first, second)]
    assert torch.equal(*maps) and maps[0].shape == (1, 32, 32)


def test_what_goes_with_a_sample():
    item = segments()[6]
    meta = item['data_samples'].metainfo
    assert meta['view'] == (2, 1)
    assert meta['view_digest'] == digest(item['inputs'])
    assert meta['img_path'].endswith('00002.png')


def test_the_generators_go_on_as_if_nothing_had_been_drawn():
    dataset = segments()
    dataset[0]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dataset[7]
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == str(states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize('mixing', [
    [dict(type='mmdet.Mosaic', img_scale=(32, 32)),
     dict(type='mmdet.RandomAffine')],
    [dict(type='mmdet.MixUp', img_scale=(32, 32), flip_ratio=0.5)]])
def test_images_made_of_several(mixing):
    dataset = boxes(*mixing)
    once = pictures(dataset, range(6))
    assert all(equal(once, pictures(dataset, range(5, -1, -1))[::-1]))
    assert not torch.equal(once[0], boxes()[0]['inputs'])
    assert irreproducible(dataset) is None


@pytest.mark.parametrize('workers', [0, 2])
def test_by_workers(workers):
    loader = Runner.build_dataloader(dict(
        batch_size=2, num_workers=workers, persistent_workers=workers > 0,
        sampler=dict(type='mmselfkd.ViewSampler', sampler=dict(
            type='DefaultSampler', shuffle=True)),
        dataset=dict(type='mmselfkd.FixedViews', views=3, dataset=dict(
            type='mmselfkd.ToySegDataset', size=48, length=4,
            pipeline=CROPS))), seed=3)
    expected, seen = segments(), set()
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for inputs, element in zip(*batch.values()):
                sample, view = element.view
                assert view == epoch % 3
                assert torch.equal(inputs, expected[sample + 4 * view][
                    'inputs'])
                seen.add((sample, view))
    assert len(seen) == 12


def test_it_is_the_data_set_to_all_who_ask():
    dataset = segments()
    assert dataset.metainfo['classes'] == dataset.dataset.metainfo['classes']
    assert len(dataset) == 4 and dataset.locate(11) == (3, 2)
    assert dataset.get_data_info(6)['sample_idx'] == 2
    for other in copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset)):
        assert torch.equal(other[3]['inputs'], dataset[3]['inputs'])
    for beyond in 12, -1:
        with pytest.raises(IndexError, match='the indices 0 to 11'):
            dataset[beyond]


@TRANSFORMS.register_module()
class OwnGenerator(BaseTransform):
    """As albumentations has one."""

    def __init__(self):
        self.generator = np.random.default_rng()

    def transform(self, results):
        results['img'] = results['img'] + self.generator.integers(
            0, 9, results['img'].shape, np.uint8)
        return results


def test_what_is_not_reproducible_is_named():
    memory = dict(type='mmdet.CachedMosaic', img_scale=(32, 32))
    own = dict(type='mmselfkd.OwnGenerator')
    assert irreproducible(segments()) is None
    assert irreproducible(boxes(base=[memory])) == 'CachedMosaic'
    assert irreproducible(boxes(base=[
        dict(type='mmdet.RandomFlip', prob=0.5), own, memory])
    ) == 'OwnGenerator'
    assert irreproducible(boxes(
        dict(type='mmdet.Mosaic', img_scale=(32, 32)), own)) == 'OwnGenerator'
    assert irreproducible(boxes(base=[own], length=1)) == 'OwnGenerator'
    assert irreproducible(FixedViews(Moods(), 1)) == 'Moods'


def test_data_sets_inside_others():
    class Around:

        def __init__(self, **inner):
            vars(self).update(inner)

    one, two = Around(), Around()
    private, both = Around(_dataset=one), Around(datasets=[one, two])
    assert list(nested(Around(dataset=private)))[1:] == [private, one]
    assert list(nested(both)) == [both, one, two]


def test_looking_leaves_the_transforms_as_they_were():
    dataset = segments()
    steps = list(dataset.dataset.pipeline.transforms)
    irreproducible(dataset)
    assert dataset.dataset.pipeline.transforms == steps


class Moods(torch.utils.data.Dataset):
    """No pipeline, and never the same."""

    def __init__(self):
        self.count = 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        from mmengine.structures import BaseDataElement
        self.count += 1
        return dict(inputs=torch.full((3, 2, 2), self.count),
                    data_samples=BaseDataElement())


@pytest.mark.parametrize('changes, message', [
    (dict(views=0), 'FixedViews.views must be an integer of 1 or more.*0'),
    (dict(views=2.5), 'FixedViews.views must be an integer.*2.5'),
    (dict(views=True), 'FixedViews.views must be an integer.*True'),
    (dict(seed=-1), 'FixedViews.seed must be an integer of 0 or more.*-1')])
def test_refuses(changes, message):
    with pytest.raises(ConfigError, match=message):
        DATASETS.build(dict(
            dict(type='mmselfkd.FixedViews', views=1, dataset=Moods()),
            **changes))


def test_refuses_what_is_not_packed():
    with pytest.raises(TypeError, match='gives a dict; .* PackSegInputs'):
        segments(CROPS[:-1])[0]


def test_a_digest_is_of_bytes_shape_and_type():
    zeros = torch.zeros(2, 3)
    others = [zeros.view(3, 2), zeros.int(), zeros + 1, zeros.bool()]
    assert len({digest(x) for x in [zeros, *others]}) == 5
    both = torch.arange(6).view(2, 3)
    assert digest(both.T) == digest(both.T.contiguous())
