import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.registry import DATASETS, METRICS, init_default_scope

from mmselfkd.datasets import make_scene

LOADING = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadDepthAnnotation', depth_rescale_factor=1e-3),
    dict(type='mmseg.PackSegInputs')
]


def build(**changes):
    cfg = dict(
        type='mmselfkd.ToyDepthDataset',
        length=3,
        split='val',
        size=32,
        pipeline=LOADING)
    return DATASETS.build({**cfg, **changes})


def depth_of(sample):
    return sample['data_samples'].gt_depth_map.data[0].numpy()


@pytest.mark.parametrize('scope', ['mmseg', 'mmengine'])
def test_stock_transforms_load_image_and_metres(scope):
    init_default_scope(scope)
    dataset = build()
    assert len(dataset) == 3
    sample, scene = dataset[2], make_scene(2, 'val', 32)
    image = sample['inputs'].numpy().transpose(1, 2, 0)
    assert np.array_equal(image, scene.image)
    depth = depth_of(sample)
    assert depth.dtype == np.float32
    # the files are in whole millimetres
    assert abs(depth - scene.depth_map).max() <= 0.00051
    assert abs(depth - scene.depth_map).max() > 0


def test_flip_takes_the_depth_along():
    flip = dict(type='mmseg.RandomFlip', prob=1.)
    sample = build(pipeline=LOADING[:2] + [flip] + LOADING[2:])[0]
    scene = make_scene(0, 'val', 32)
    assert np.array_equal(sample['inputs'].numpy().transpose(1, 2, 0),
                          scene.image[:, ::-1])
    assert depth_of(sample) == pytest.approx(
        scene.depth_map[:, ::-1], abs=0.0006)


def test_seed_and_split_reach_the_generator():
    scene = make_scene(0, 'test', 32, seed=5)
    assert depth_of(build(split='test', seed=5)[0]) == pytest.approx(
        scene.depth_map, abs=0.0006)


def test_depth_file_is_a_png_of_16_bits():
    path = build().get_data_info(1)['depth_map_path']
    content = fileio.get(path)
    assert content[1:4] == b'PNG' and content[24] == 16


def test_unknown_kind_of_file():
    with pytest.raises(FileNotFoundError, match='00001_normals.png'):
        fileio.get('toy://val/0/32/00001_normals.png')


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'valid'"):
        build(split='valid')


def test_host_metric_agrees_with_a_computation_by_hand():
    init_default_scope('mmseg')
    sample = build()[1]['data_samples']
    truth = sample.gt_depth_map.data[0].double()
    torch.manual_seed(0)
    guess = truth * (0.7 + 0.8 * torch.rand(truth.shape).double())
    metric = METRICS.build(dict(type='mmseg.DepthMetric'))
    metric.process(None, [dict(
        pred_depth_map=dict(data=guess[None]),
        gt_depth_map=dict(data=truth[None]))])
    told = metric.evaluate(1)
    pairs = list(zip(truth.flatten().tolist(), guess.flatten().tolist()))
    count = len(pairs)
    squares = sum((g - t)**2 for t, g in pairs) / count
    assert told['rmse'] == pytest.approx(squares**0.5)
    assert told['abs_rel'] == pytest.approx(
        sum(abs(g - t) / t for t, g in pairs) / count)
    for power in (1, 2, 3):
        assert told[f'd{power}'] == pytest.approx(
            sum(max(t / g, g / t) < 1.25**power for t, g in pairs) / count)


def test_without_mmseg_only_building_it_fails(run_without):
    run = run_without(
        'from mmselfkd.datasets import ToyDepthDataset\n'
        'print("imported")\n'
        'ToyDepthDataset(length=1)\n', 'mmseg')
    assert run.returncode == 1 and run.stdout == 'imported\n'
    assert run.stderr.splitlines()[-1].startswith(
        'ImportError: ToyDepthDataset is a dataset of mmseg')
