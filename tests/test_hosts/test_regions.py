"""The regions of boxes: against mmdet's ATSS, and against loops."""
import pytest
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmengine.structures import InstanceData

from mmselfkd.hosts.regions import box_regions

SIZES, STRIDES = ((12, 16), (6, 8), (3, 4)), (8, 16, 32)


def anchors_of(scale=4):
    levels = []
    for (height, width), stride in zip(SIZES, STRIDES):
        levels.append(torch.tensor([
            [x * stride - scale * stride / 2, y * stride - scale * stride / 2,
             x * stride + scale * stride / 2, y * stride + scale * stride / 2]
            for y in range(height) for x in range(width)]))
    return levels


def boxes_of(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(4, 2, generator=generator) * torch.tensor([90., 60.])
    side = 8 + 50 * torch.rand(4, 2, generator=generator)
    return torch.cat([corner, corner + side], 1)


def iou_and_diou(a, b):
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(
        min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    iou = common / (sum(areas) - common)
    apart = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2)**2 for i in (0, 1))
    around = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i]))**2
                 for i in (0, 1))
    return iou, iou - apart / around


def by_loops(levels, boxes, top=9, share=0.25):
    """The regions as sets of indices."""
    main, valuable = set(), set()
    every = torch.cat(levels).double().tolist()
    for box in boxes.double().tolist():
        candidates, first = [], 0
        for level in levels:
            apart = {i: sum((every[i][k] + every[i][k + 2] - box[k]
                             - box[k + 2])**2 for k in (0, 1))
                     for i in range(first, first + len(level))}
            candidates += sorted(apart, key=apart.get)[:top]
            first += len(level)
        ious = [iou_and_diou(every[i], box)[0] for i in candidates]
        mean = sum(ious) / len(ious)
        deviation = (sum((x - mean)**2 for x in ious)
                     / (len(ious) - 1))**0.5
        threshold = mean + deviation
        for i, iou in zip(candidates, ious):
            x, y = ((every[i][k] + every[i][k + 2]) / 2 for k in (0, 1))
            if iou >= threshold and (
                    box[0] < x < box[2] and box[1] < y < box[3]):
                main.add(i)
        for i, anchor in enumerate(every):
            diou = iou_and_diou(anchor, box)[1]
            if share * threshold <= diou < threshold:
                valuable.add(i)
    return main, valuable - main


@pytest.mark.parametrize('seed', range(3))
def test_loops(seed):
    levels, boxes = anchors_of(), boxes_of(seed) + 0.3  # no equal distances
    valid = torch.ones(sum(map(len, levels)), dtype=torch.bool)
    found = [set(x.nonzero().flatten().tolist())
             for x in box_regions(levels, boxes, valid)]
    assert found == list(by_loops(levels, boxes))
    assert all(found)


@pytest.mark.parametrize('seed', range(3))
def test_main_region_is_that_of_mmdet(seed):
    levels, boxes = anchors_of(), boxes_of(seed) + 0.3
    every = torch.cat(levels)
    result = ATSSAssigner(
        topk=9, iou_calculator=dict(type='mmdet.BboxOverlaps2D')).assign(
        InstanceData(priors=every), [len(level) for level in levels],
        InstanceData(bboxes=boxes, labels=torch.zeros(4).long()))
    main, _ = box_regions(levels, boxes, torch.ones(len(every)).bool())
    assert torch.equal(main, result.gt_inds > 0)


def test_without_boxes_or_valid_anchors_both_are_empty():
    levels = anchors_of()
    valid = torch.ones(sum(map(len, levels)), dtype=torch.bool)
    for boxes, ok in ((torch.zeros(0, 4), valid), (boxes_of(0), ~valid)):
        assert not any(x.any() for x in box_regions(levels, boxes, ok))


def test_what_is_not_valid_is_in_no_region():
    levels, boxes = anchors_of(), boxes_of(0)
    valid = torch.cat(levels)[:, 0] < 40
    for region in box_regions(levels, boxes, valid):
        assert region.any() and not region[~valid].any()
