"""What a loss is given beside its maps, and what its levels make."""
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmselfkd.distillation.level_matching import LevelMatcher
from mmselfkd.distillation.loss_config import LossConfig
from mmselfkd.distillation.loss_term import LossTerm
from mmselfkd.hosts import MMDetHost, Place, Reading
from mmselfkd.layout import BatchLayout
from mmselfkd.losses import DistillationLoss

CLASSES, ANCHORS = 3, 2


class Given(DistillationLoss):
    """Keeps what it is given; the value is the number of positions."""

    channels = 'classes'
    activation = 'sigmoid'
    takes_weight = True
    needs_label = True
    calls: list = []
    built: list = []
    teachers: list = []

    def build(self, student, teacher, image):
        Given.built.append((student, teacher, image))

    def forward(self, student, teacher, *, label=None, weight=None):
        Given.calls.append((student, label, weight))
        Given.teachers.append(teacher)
        return student.new_tensor(float(student[0, 0].numel()))


class Summed(Given):

    level_reduction = 'sum'


@pytest.fixture
def layout():
    """Of two images in 8 x 8 pixels: one of 8 x 4 with an object, one full."""
    samples = []
    for width in (4, 8):
        element = BaseDataElement(metainfo=dict(img_shape=(8, width)))
        element.gt_instances = InstanceData(
            bboxes=torch.tensor([[0., 0., 4., 4.]]),
            labels=torch.tensor([1]))
        samples.append(element)
    return BatchLayout(torch.zeros(2, 3, 8, 8), samples, MMDetHost(), 255)


def term_of(kind, layout, is_map=True, **options):
    """On two levels of a head with anchors, and their pairs."""
    Given.calls, Given.built, Given.teachers = [], [], []
    config = LossConfig('loss_x', dict(type=kind, source='x', **options),
                        'key', ['teacher'])
    levels = [torch.rand(2, ANCHORS * CLASSES, side, side) for side in (8, 4)]
    places = [Place([], reading=Reading('classes', 'sigmoid', CLASSES),
                    is_map=is_map)]
    matcher = LevelMatcher(config, levels, levels, places, places)
    pairs = matcher(levels, levels, layout)
    return LossTerm(config, matcher, pairs, torch.zeros(2, 3, 8, 8)), pairs


@pytest.mark.parametrize('foreground', [None, 0.5])
def test_every_anchor_has_the_weight_and_label_of_its_image(
        layout, foreground):
    term, pairs = term_of(Given, layout, foreground=foreground)
    label = torch.arange(2)[:, None, None].expand(2, 8, 8)
    term.value(pairs, label, torch.zeros(2, 3, 8, 8), layout)
    for (student, labels, weight), side in zip(Given.calls, (8, 4)):
        assert student.shape == (2 * ANCHORS, CLASSES, side, side)
        expected = layout.weight((side, side), foreground)
        for i in range(2 * ANCHORS):  # image by image
            assert torch.equal(weight[i], expected[i // ANCHORS])
            assert (labels[i] == i // ANCHORS).all()


def test_what_is_no_map_has_each_label_once(layout):
    term, pairs = term_of(Given, layout, is_map=False)
    label = torch.arange(2)[:, None, None].expand(2, 8, 8)
    term.value(pairs, label, torch.zeros(2, 3, 8, 8), layout)
    assert len(Given.calls) == 2
    for _, labels, weight in Given.calls:
        assert torch.equal(labels, label) and weight is None


def test_it_is_given_both_sides(layout):
    term, pairs = term_of(Given, layout)
    term.value(pairs, torch.zeros(2, 8, 8).long(), torch.zeros(2, 3, 8, 8),
               layout)
    for (student, *_), teacher, pair in zip(
            Given.calls, Given.teachers, pairs, strict=True):
        assert student is pair[0] and teacher is pair[1]


def test_it_is_built_on_each_pair(layout):
    image = torch.zeros(2, 3, 8, 8)
    _, pairs = term_of(Given, layout)
    for (student, teacher, of), (s, t) in zip(Given.built, pairs, strict=True):
        assert student is s and teacher is t and of.shape == image.shape


def test_no_region_at_all_is_one_that_says_nothing(layout):
    """Every rank calls the loss, with regions or without."""
    term, _ = term_of(Given, layout, is_map=False)
    empty = torch.rand(0, CLASSES, 1, 1, requires_grad=True)
    value = term.value([(empty, empty)], None, torch.zeros(2, 3, 8, 8),
                       layout)
    (student, label, weight), = Given.calls
    assert student.shape == (1, CLASSES, 1, 1) and not student.any()
    assert label is weight is None
    assert value.requires_grad


@pytest.mark.parametrize('kind, value', [(Given, 40.), (Summed, 80.)])
def test_mean_or_sum_of_the_levels(layout, kind, value):
    term, pairs = term_of(kind, layout)
    assert term.value(
        pairs, None, torch.zeros(2, 3, 8, 8), layout) == value
