import numpy as np
import pytest
from mmengine import fileio
from mmengine.registry import DATASETS, init_default_scope

from mmselfkd.datasets import make_scene
from mmselfkd.datasets.toy_scenes import CLASSES

LOADING = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.PackSegInputs')
]


def build(**changes):
    cfg = dict(
        type='mmselfkd.ToySegDataset',
        length=3,
        split='val',
        size=32,
        pipeline=LOADING)
    return DATASETS.build({**cfg, **changes})


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmengine'])
def test_stock_transforms_load_the_scene(scope):
    init_default_scope(scope)
    dataset = build()
    assert len(dataset) == 3
    sample, scene = dataset[2], make_scene(2, 'val', 32)
    image = sample['inputs'].numpy().transpose(1, 2, 0)
    labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
    assert np.array_equal(image, scene.image)
    assert np.array_equal(labels, scene.seg_map)
    assert dataset.metainfo['classes'] == CLASSES


def test_seed_and_split_reach_the_generator():
    dataset = build(split='test', seed=5)
    labels = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert np.array_equal(labels, make_scene(0, 'test', 32, seed=5).seg_map)


def test_subset_of_the_classes():
    subset = CLASSES[:3]
    dataset = build(metainfo=dict(classes=subset))
    labels = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    scene = make_scene(0, 'val', 32).seg_map
    assert np.array_equal(labels, np.where(scene < 3, scene, 255))


def test_paths_are_files_to_mmengine():
    path = build().get_data_info(1)['img_path']
    assert fileio.get(path)[1:4] == b'PNG'


@pytest.mark.parametrize('path', [
    'toy://val/0/32/one.png', 'toy://valid/0/32/00001.png', 'toy://val.png'])
def test_a_path_that_names_no_scene(path):
    with pytest.raises(FileNotFoundError, match=path):
        fileio.get(path)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'valid'"):
        build(split='valid')


def test_without_mmseg_only_building_it_fails(run_without):
    run = run_without(
        'from mmselfkd.datasets import ToySegDataset, make_scene\n'
        'make_scene(0)\n'
        'print("imported")\n'
        'ToySegDataset(length=1)\n', 'mmseg')
    assert run.returncode == 1 and run.stdout == 'imported\n'
    assert run.stderr.splitlines()[-1].startswith('ImportError: ToySegDataset')
