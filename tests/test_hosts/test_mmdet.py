"""Where the aliases point in every kind of model the hosts have."""
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmselfkd.errors import ConfigError
from mmselfkd.heads import find_place, rois_for, scores_of
from mmselfkd.taps import Tap


def place(model, source):
    return find_place(model, source, source, 'key')


@pytest.fixture
def build(detectors):
    def build(name):
        return MODELS.build(dict(detectors.model(name), _scope_='mmdet'))
    return build


@pytest.mark.parametrize('name, scores, boxes, classes', [
    ('retinanet', 'retina_cls', 'retina_reg', 6),
    ('fcos', 'conv_cls', 'conv_reg', 6),
    ('atss', 'atss_cls', 'atss_reg', 6),
    ('gfl', 'gfl_cls', 'gfl_reg', 6),
])
def test_dense_heads(build, name, scores, boxes, classes):
    model = build(name)
    found = place(model, 'logits')
    assert found.modules == [getattr(model.bbox_head, scores)]
    assert found.is_map and found.argument is None and not found.queries
    assert place(model, 'boxes').modules == [getattr(model.bbox_head, boxes)]
    read = scores_of(model, found)
    assert (read.classes, read.is_sigmoid) == (classes, True)
    assert place(model, 'features').modules == [model.neck]
    # the path of the same module means the same
    path = place(model, f'bbox_head.{scores}')
    assert scores_of(model, path) == read
    assert scores_of(model, place(model, 'neck')) is None
    assert scores_of(model, place(model, 'features')) is None


@pytest.mark.parametrize('name, scores', [
    ('yolox', 'multi_level_conv_cls'), ('rtmdet', 'rtm_cls')])
def test_a_layer_for_every_level(build, name, scores):
    model = build(name)
    found = place(model, 'logits')
    layers = list(getattr(model.bbox_head, scores))
    assert found.modules == list(dict.fromkeys(layers))
    assert len(found.modules) == 3
    assert scores_of(model, found).is_sigmoid


def test_two_stages(build):
    model = build('mask')
    logits = place(model, 'logits')
    assert logits.modules == [model.roi_head.bbox_head.fc_cls]
    assert not logits.is_map
    read = scores_of(model, logits)
    assert not read.is_sigmoid and read.classes is None
    masks = place(model, 'roi_head.mask_head.conv_logits')
    assert not masks.is_map and scores_of(model, masks).is_sigmoid
    rpn = place(model, 'rpn_head.rpn_cls')
    assert rpn.is_map and scores_of(model, rpn).classes == 1
    rois = place(model, 'rois')
    assert rois.modules == [model.roi_head.bbox_roi_extractor]
    assert rois.argument == 1 and rois.is_raw
    assert place(model, 'mask_rois').modules == [
        model.roi_head.mask_roi_extractor]


def test_the_last_stage_of_a_cascade(build):
    model = build('cascade')
    assert place(model, 'logits').modules == [
        model.roi_head.bbox_head[-1].fc_cls]
    assert len(place(model, 'rois').modules) == 3


@pytest.mark.parametrize('source, needed', [
    ('logits', ['rois']), ('boxes', ['rois']), ('neck', []),
    ('roi_head.bbox_roi_extractor[0]', ['rois']),
    ('roi_head.mask_head.conv_logits', ['mask_rois']), ('rpn_head', [])])
def test_rois_a_teacher_needs(build, source, needed):
    assert rois_for(build('mask'), source) == needed


def test_rois_are_no_matter_of_dense_heads(build):
    assert rois_for(build('fcos'), 'logits') == []


def test_queries_of_the_last_layer(build):
    model = build('detr')
    tap = Tap(model, 'logits', 'key')
    tap.open()
    states = torch.rand(2, 3, 12, 32)  # layers, images, queries, channels
    scores = model.bbox_head.fc_cls(states)
    level, = tap.take()
    assert torch.equal(level, scores[-1].transpose(1, 2)[..., None])
    assert not tap.place.is_map
    assert scores_of(model, tap.place).queries == 12
    with pytest.raises(ConfigError, match='boxes of a DETRHead'):
        place(model, 'boxes')


def test_queries_made_from_labels_are_left_out(build):
    model = build('deformable')
    tap = Tap(model, 'logits', 'key')
    tap.open()
    for layer in range(2):  # 5 more in front, as in DINO's training
        scores = model.bbox_head.cls_branches[layer](torch.rand(3, 17, 32))
    level, = tap.take()
    assert torch.equal(level[..., 0], scores[:, 5:].transpose(1, 2))


class Depth(nn.Module):

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.decode_head = nn.Module()
        self.decode_head.conv_depth = nn.Conv2d(4, 1, 1)


def test_depth():
    model = Depth()
    head = model.decode_head
    assert place(model, 'depth').modules == [head.conv_depth]
    entry = place(model, 'features')
    assert entry.modules == [head.conv_depth] and entry.argument == 0
    head.dropout = nn.Dropout2d()
    assert place(model, 'features').modules == [head.dropout]
    assert place(model, 'pyramid').modules == [model.backbone]
    with pytest.raises(ConfigError, match="use 'depth'"):
        place(model, 'logits')


@pytest.mark.parametrize('source', ['depth', 'mask_rois', 'rois', 'nek'])
def test_what_a_dense_detector_does_not_have(build, source):
    with pytest.raises(ConfigError, match=f"key = '{source}'.*'neck'"):
        place(build('fcos'), source)
