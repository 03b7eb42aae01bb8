import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmselfkd.datasets import make_scene
from mmselfkd.datasets.toy_det import run_lengths
from mmselfkd.datasets.toy_scenes import CLASSES

KEPT = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'instances')
LOADING = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.PackDetInputs', meta_keys=KEPT)
]
SIZE = 48


def build(**changes):
    cfg = dict(
        type='mmselfkd.ToyDetDataset',
        length=4,
        split='val',
        size=SIZE,
        pipeline=LOADING)
    return DATASETS.build({**cfg, **changes})


def visible(scene, i):
    """What is seen of object ``i``, by painting all of them."""
    canvas = np.full((SIZE, SIZE), -1)
    for number, obj in enumerate(scene.objects):
        canvas[obj.mask(SIZE)] = number
    return canvas == i


def wanted(index, least=16):
    """Class map label, mask and box of every instance."""
    scene = make_scene(index, 'val', SIZE)
    for i, obj in enumerate(scene.objects):
        mask = visible(scene, i)
        if mask.sum() >= least:
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1,
                   rows.max() + 1]
            yield obj.label, mask, box


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
@pytest.mark.parametrize('index', range(4))
def test_stock_transforms_load_boxes_and_masks(scope, index):
    init_default_scope(scope)
    sample = build()[index]
    scene = make_scene(index, 'val', SIZE)
    image = sample['inputs'].numpy().transpose(1, 2, 0)
    assert np.array_equal(image, scene.image)
    truth = sample['data_samples'].gt_instances
    labels, masks, boxes = zip(*wanted(index))
    assert truth.labels.tolist() == [label - 1 for label in labels]
    assert np.array_equal(truth.masks.masks, np.stack(masks))
    assert truth.bboxes.tensor.tolist() == [list(box) for box in boxes]
    # the class map says the same
    for label, mask in zip(labels, masks):
        assert (scene.seg_map[mask] == label).all()


def test_classes_are_those_of_the_scenes_without_the_ground():
    assert build().metainfo['classes'] == CLASSES[1:]


def test_what_shows_too_little_is_no_instance():
    counts = [
        sum(len(build(min_visible=least).get_data_info(i)['instances'])
            for i in range(4)) for least in (1, 16, 150, SIZE**2)]
    assert counts[0] >= counts[1] > counts[2] > counts[3] == 0
    assert counts[2] == sum(len(list(wanted(i, 150))) for i in range(4))
    sample = build(min_visible=SIZE**2)[0]['data_samples']
    assert sample.gt_instances.bboxes.tensor.shape == (0, 4)


def test_min_visible_is_checked():
    with pytest.raises(ValueError, match='min_visible = 0'):
        build(min_visible=0)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'valid'"):
        build(split='valid')


def test_subset_of_the_classes():
    subset = (CLASSES[4], CLASSES[2])
    dataset = build(metainfo=dict(classes=subset), length=12)
    found = 0
    for i in range(12):
        labels = [subset.index(CLASSES[label]) for label, _, _ in wanted(i)
                  if CLASSES[label] in subset]
        assert dataset.get_cat_ids(i) == labels
        found += len(labels)
    assert found > 3


@pytest.mark.parametrize('first', [False, True])
def test_run_lengths_against_pycocotools(first):
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    mask[0, 0] = first
    told = run_lengths(mask)
    decoded = coco_mask.decode(coco_mask.frPyObjects(told, 5, 7))
    assert np.array_equal(decoded, mask)


def evaluate(change):
    """COCO metrics of what ``change`` makes of the ground truth."""
    init_default_scope('mmdet')
    dataset = build(length=6)
    metric = METRICS.build(
        dict(type='mmdet.CocoMetric', metric=['bbox', 'segm']))
    metric.dataset_meta = dataset.metainfo
    for item in dataset:
        sample = item['data_samples']
        truth = sample.gt_instances
        sample.pred_instances = InstanceData(
            bboxes=truth.bboxes.tensor.clone(),
            labels=truth.labels.clone(),
            scores=torch.ones(len(truth)),
            masks=torch.tensor(truth.masks.masks).bool())
        change(sample.pred_instances)
        metric.process(None, [sample.to_dict()])
    return metric.evaluate(len(dataset))


def test_coco_metric_takes_the_ground_truth_from_the_samples():
    perfect = evaluate(lambda pred: None)
    assert perfect['coco/bbox_mAP'] == perfect['coco/segm_mAP'] == 1

    def wrong_class(pred):
        pred.labels = (pred.labels + 1) % 6

    assert evaluate(wrong_class)['coco/bbox_mAP'] < 0.3

    def wider(pred):  # by a third: an IoU of 0.75 at most
        boxes = pred.bboxes
        boxes[:, 2] += (boxes[:, 2] - boxes[:, 0]) / 3 + 0.01

    told = evaluate(wider)
    assert told['coco/bbox_mAP_50'] == 1 and told['coco/bbox_mAP_75'] == 0
    assert told['coco/segm_mAP'] == 1


def test_it_needs_neither_mmdet_nor_mmseg(run_without):
    run = run_without(
        'from mmselfkd.datasets import ToyDetDataset\n'
        'dataset = ToyDetDataset(length=1)\n'
        'print(len(dataset.get_data_info(0)["instances"]))\n',
        'mmdet', 'mmseg', 'pycocotools')
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0
