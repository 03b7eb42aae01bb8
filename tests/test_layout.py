"""Weights and labels of positions, against loops over the positions."""
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmselfkd import ConfigError
from mmselfkd.hosts import Host, MMDetHost, MMSegHost
from mmselfkd.layout import BACKGROUND, BatchLayout

IGNORED = 255


def sample(shape=None, boxes=None, labels=None):
    element = BaseDataElement(
        metainfo={} if shape is None else dict(img_shape=shape))
    if boxes is not None:
        element.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels or [0] * len(boxes)))
    return element


def layout(*samples, size=(32, 48), host=MMDetHost, ignore_index=IGNORED):
    """Of a batch of so many samples; of one image without any."""
    return BatchLayout(torch.zeros(len(samples) or 1, 3, *size),
                       list(samples) or None, host(), ignore_index)


def by_loops(size, shape, boxes, share, total=(32, 48)):
    """The equation of ``BatchLayout.weight``, position by position."""
    height, width = size
    cell = total[0] / height, total[1] / width
    valid = [(y, x) for y in range(height) for x in range(width)
             if y * cell[0] < shape[0] and x * cell[1] < shape[1]]
    objects = []
    for x1, y1, x2, y2 in boxes:
        inside = [(y, x) for y in range(height) for x in range(width)
                  if x1 <= (x + .5) * cell[1] <= x2
                  and y1 <= (y + .5) * cell[0] <= y2]
        if not inside:
            inside = [tuple(min(max(int(middle / side), 0), count - 1)
                            for middle, side, count in (
                                ((y1 + y2) / 2, cell[0], height),
                                ((x1 + x2) / 2, cell[1], width)))]
        objects.append([p for p in inside if p in valid])
    outside = [p for p in valid if not any(p in o for o in objects)]
    weight = torch.zeros(size)
    for inside in objects:
        for p in inside:
            weight[p] += share / len(objects) / len(inside)
    for p in outside:
        weight[p] += (1 - share) / len(outside)
    return weight


def test_no_padding_needs_no_weight():
    assert layout(sample((32, 48)), sample((32, 48))).weight((4, 6)) is None
    assert layout(sample()).weight((4, 6)) is None
    assert layout().weight((2, 2)) is None


def test_padding_weighs_nothing():
    got = layout(sample((32, 48)), sample((17, 24))).weight((4, 6))
    assert got.shape == (2, 1, 4, 6)
    assert got[0].min() == 1
    # a cell of 8 x 8 counts where it reaches into the image
    expected = torch.zeros(4, 6)
    expected[:3, :3] = 1
    assert torch.equal(got[1, 0], expected)


def test_cut_is_zero_in_the_padding():
    level = torch.randn(2, 5, 4, 6)
    got = layout(sample((32, 48)), sample((17, 24))).cut(level)
    assert torch.equal(got[0], level[0])
    assert torch.equal(got[1, :, :3, :3], level[1, :, :3, :3])
    assert not got[1, :, 3:].any() and not got[1, :, :, 3:].any()
    assert layout(sample((32, 48)), sample((32, 48))).cut(level) is level


def test_even_the_coarsest_level_keeps_a_position():
    got = layout(sample((32, 48)), sample((3, 3))).weight((1, 1))
    assert got.flatten().tolist() == [1, 1]


@pytest.mark.parametrize('size', [(32, 48), (8, 12), (4, 6), (3, 5), (1, 1)])
@pytest.mark.parametrize('share', [0, 0.5, 0.8, 1])
@pytest.mark.parametrize('boxes', [
    [[2, 3, 20, 17]],
    [[0, 0, 32, 24], [5, 5, 9, 30], [6, 6, 8, 8]],  # one inside another
    [[10.2, 10.2, 10.9, 10.9], [47, 31, 48, 32]],  # less than a position,
    # edges on the centres of cells of 8 x 8; beside the image
    [[12, 12, 20, 20]], [[-9, -9, -1, -1]], [[50, 34, 60, 40]]])
def test_foreground_by_the_equation(size, share, boxes):
    got = layout(sample((32, 48), boxes)).weight(size, share)[0, 0]
    expected = by_loops(size, (32, 48), boxes, share)
    torch.testing.assert_close(got, expected)


def test_foreground_in_a_padded_image():
    boxes = [[2, 3, 20, 17]]
    got = layout(sample((24, 30), boxes)).weight((8, 12), 0.5)[0, 0]
    torch.testing.assert_close(got, by_loops((8, 12), (24, 30), boxes, 0.5))


def test_every_object_counts_the_same():
    small, large = [4, 4, 8, 8], [16, 0, 48, 32]
    got = layout(sample((32, 48), [small, large])).weight((32, 48), 0.5)[0, 0]
    assert got[4:8, 4:8].sum() == pytest.approx(0.25)
    assert got[:, 16:].sum() == pytest.approx(0.25)
    assert got.sum() == pytest.approx(1)


def test_no_object_leaves_the_background():
    got = layout(sample((32, 48), [])).weight((4, 6), 0.5)
    assert got.sum() == pytest.approx(0.5)
    assert layout(sample((32, 48), [])).weight((4, 6), 1).sum() == 0


def test_foreground_without_boxes():
    with pytest.raises(ConfigError, match='no boxes'):
        layout(sample((32, 48))).weight((4, 6), 0.5)
    with pytest.raises(ConfigError, match='no boxes'):
        layout().weight((4, 6), 0.5)


@pytest.mark.parametrize('ignore_index, padding', [
    (IGNORED, IGNORED), (-100, -100), (None, BACKGROUND)])
def test_label_of_boxes(ignore_index, padding):
    got = layout(
        sample((20, 40), [[0, 0, 30, 18], [5, 5, 9, 9], [35, 15, 48, 32]],
               [3, 1, 2]), ignore_index=ignore_index).label()[0]
    assert got.dtype == torch.long
    assert (got[20:] == padding).all() and (got[:, 40:] == padding).all()
    assert (got[5:9, 5:9] == 1).all()  # the smaller box is in front
    assert got[0, 0] == got[17, 29] == 3
    assert got[19, 39] == 2
    assert got[19, 0] == got[18, 29] == BACKGROUND


def test_label_of_a_segmentation_batch():
    first, second = sample(), sample()
    for element, value in ((first, 1), (second, 2)):
        element.gt_sem_seg = PixelData(
            data=torch.full((1, 4, 6), value))
    got = layout(first, second, size=(4, 6), host=MMSegHost).label()
    assert got.shape == (2, 4, 6) and got[1].unique().item() == 2


@pytest.mark.parametrize('host', [Host, MMSegHost, MMDetHost])
def test_no_label_in_the_data(host):
    assert layout(sample(), host=host).label() is None
    assert layout(host=host).label() is None


@pytest.mark.parametrize('shape, size', [
    ((6, 4), (6, 4)), ((6, 4, 3), (6, 4)), ((9, 4), (8, 4)), ((6, 99), (6, 9)),
    (None, (8, 9))])
def test_size_of_an_image_in_its_input(shape, size):
    assert Host().image_size(sample(shape), (8, 9)) == size


def test_where_the_image_is():
    assert layout(sample((32, 48))).image() is None
    got = layout(sample((32, 48)), sample((17, 24))).image()
    assert got.shape == (2, 1, 32, 48) and got.dtype == torch.bool
    assert got[0].all() and got[1, 0, :17, :24].all()
    assert got[1].sum() == 17 * 24


def test_objects_by_loops():
    """Two that overlap, a small one, and an image without any."""
    boxes = [(0, 0, 24, 16), (16, 8, 40, 28), (41, 1, 42, 2)]
    size, shape = (4, 6), (20, 48)
    expected = torch.zeros(2, 1, *size)
    for box in boxes:  # by its share alone, where the whole weight is 1
        alone = by_loops(size, shape, [box], 1.0)
        expected[0, 0] = torch.maximum(expected[0, 0], alone)
    found = layout(sample(shape, boxes), sample((32, 48), [])).objects(size)
    torch.testing.assert_close(found, expected)


def test_objects_need_boxes():
    with pytest.raises(ConfigError, match='no boxes'):
        layout(sample((32, 48)), host=MMSegHost).objects((4, 6))
