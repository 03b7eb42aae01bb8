"""A part of train that judges runs: what is in it, and what is left."""
import copy
import json

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmselfkd import ConfigError
from mmselfkd.comparison.holdout import hold_out
from mmselfkd.datasets import FixedViews, dataset_part

SCENES = dict(type='mmselfkd.ToySegDataset', length=20)
COCO = dict(
    type='mmdet.CocoDataset', ann_file='train.json',
    data_prefix=dict(img=''), metainfo=dict(classes=('cell', )),
    filter_cfg=dict(filter_empty_gt=True))


def names(dataset):
    return [dataset.get_data_info(i)['img_path']
            for i in range(len(dataset))]


def config(train, val=None, evaluator=None):
    scope = 'mmdet' if 'mmdet' in str(train) else 'mmseg'
    return Config(dict(
        default_scope=scope, train_dataloader=dict(dataset=train),
        val_dataloader=dict(dataset=val or dict(
            SCENES, split='val', pipeline=[])),
        val_evaluator=evaluator or dict(type='IoUMetric')))


def built(cfg, loader):
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg[loader].dataset)


def test_the_parts_are_all_and_have_nothing_in_common():
    everything = names(DATASETS.build(SCENES))
    held = dataset_part(SCENES, 0.3, True)
    rest = dataset_part(SCENES, 0.3, False)
    assert len(held) == 6 and held.test_mode and not rest.test_mode
    assert sorted(names(held) + names(rest)) == sorted(everything)
    assert names(held) == names(dataset_part(SCENES, 0.3, True))
    assert names(held) != everything[:6]  # neighbours in a video, perhaps


def test_of_a_config():
    """Train loses what val gets; the pipelines stay where they were."""
    train, val = (dict(SCENES, pipeline=[dict(type=kind)])
                  for kind in ('LoadImageFromFile', 'PackSegInputs'))
    cfg = config(train, dict(val, split='val'))
    assert hold_out(cfg, 0.1, None) == 2
    left, held = (built(cfg, f'{name}_dataloader')
                  for name in ('train', 'val'))
    assert len(left) == 18 and not set(names(left)) & set(names(held))
    assert all('train' in name for name in names(held))
    assert [type(part.pipeline.transforms[0]).__name__
            for part in (left, held)] == ['LoadImageFromFile',
                                          'PackSegInputs']


def test_inside_wrappers():
    cfg = config(dict(type='mmselfkd.FixedViews', views=2, dataset=dict(
        type='ConcatDataset', datasets=[SCENES, dict(SCENES, seed=1)])))
    assert hold_out(cfg, 0.1, None) == 4
    left = built(cfg, 'train_dataloader')
    assert isinstance(left, FixedViews) and len(left) == 36
    assert len(built(cfg, 'val_dataloader')) == 4


@pytest.fixture
def coco(tmp_path):
    """Ten images with a box each, and one without any."""
    (tmp_path / 'train.json').write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.png', height=8, width=8)
                for i in range(11)],
        annotations=[dict(id=i + 1, image_id=i, category_id=1, iscrowd=0,
                          bbox=[1, 1, 4, 4], area=16) for i in range(10)],
        categories=[dict(id=1, name='cell')])))
    return dict(COCO, data_root=str(tmp_path))


def test_boxes_have_an_annotation_file_of_the_part(coco, tmp_path):
    cfg = config(coco, dict(coco, ann_file='val.json', pipeline=[]), dict(
        type='CocoMetric', ann_file='val.json'))
    assert hold_out(cfg, 0.2, tmp_path / 'work') == 2
    held = built(cfg, 'val_dataloader')
    kept = json.loads(open(cfg.val_evaluator.ann_file).read())
    ids = [held.get_data_info(i)['img_id'] for i in range(2)]
    assert [image['id'] for image in kept['images']] == ids
    assert [row['image_id'] for row in kept['annotations']] == ids
    assert kept['categories'] == [dict(id=1, name='cell')]
    assert len(built(cfg, 'train_dataloader')) == 8


@pytest.mark.parametrize('share', [0, 1, -0.1, 1.5, float('nan')])
def test_no_share(share):
    with pytest.raises(ConfigError, match='between 0 and 1'):
        hold_out(config(SCENES), share, None)


def test_too_few_samples():
    with pytest.raises(ConfigError, match='0 of the 20 samples'):
        hold_out(config(SCENES), 0.01, None)


def test_no_file_that_can_be_divided(coco, tmp_path):
    cfg = config(SCENES, None, [dict(type='CocoMetric', ann_file='v.json')])
    with pytest.raises(ConfigError, match='none that can be divided'):
        hold_out(cfg, 0.1, tmp_path)
    two = dict(type='ConcatDataset', datasets=[coco, copy.deepcopy(coco)])
    cfg = config(two, None, dict(type='CocoMetric', ann_file='v.json'))
    with pytest.raises(ConfigError, match='train has 2 data sets'):
        hold_out(cfg, 0.2, tmp_path)


def test_what_is_no_dataset_of_mmengine():
    with pytest.raises(ConfigError, match='derives from .*BaseDataset'):
        dataset_part(dict(type='mmselfkd.FixedViews', dataset=SCENES,
                          views=1), 0.1, True)
