"""Where the sources of a detector point, and how they are read."""
from contextlib import ExitStack

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData

from mmselfkd.errors import ConfigError
from mmselfkd.hosts import MMDetHost, Reading, host_of, watched_modules
from mmselfkd.taps import Tap
from mmselfkd.teachers import BatchContext


def place(model, source):
    return host_of(model).place(model, source, f'key = {source!r}')


def opened(model, source):
    tap = Tap(model, source, 'key', ExitStack())
    tap.open()
    return tap


@pytest.fixture
def build(detectors):
    def build(name):
        return MODELS.build(dict(detectors.model(name), _scope_='mmdet'))
    return build


@pytest.mark.parametrize('name', ['fcos', 'mask', 'detr', 'deformable'])
def test_whose_model_it_is(build, name):
    assert isinstance(host_of(build(name)), MMDetHost)


@pytest.mark.parametrize('name, scores, boxes', [
    ('retinanet', 'retina_cls', 'retina_reg'),
    ('fcos', 'conv_cls', 'conv_reg'),
    ('atss', 'atss_cls', 'atss_reg'),
    ('gfl', 'gfl_cls', 'scales'),
])
def test_dense_heads(build, name, scores, boxes):
    model = build(name)
    found = place(model, 'logits')
    assert found.modules == [getattr(model.bbox_head, scores)]
    assert found.is_map and found.argument is None and not found.queries
    assert found.reading == Reading('classes', 'sigmoid', 6)
    box = place(model, 'boxes')
    assert box.modules == watched_modules(getattr(model.bbox_head, boxes))
    if name == 'gfl':  # four distributions over bins, scaled by level
        assert box.reading == Reading('distributions', 'softmax', 17)
        assert box.reading.groups(4 * 17) == 4
    else:
        assert box.reading == Reading('values')
    assert place(model, 'features').modules == [model.neck]
    assert place(model, 'pyramid').modules == [model.neck]
    # the path of the same module means the same
    assert place(model, f'bbox_head.{scores}').reading == found.reading
    assert place(model, f'bbox_head.{boxes}').reading == box.reading
    assert place(model, 'neck').reading is None
    assert place(model, 'features').reading is None


def test_anchors_at_a_position(build):
    reading = place(build('retinanet'), 'logits').reading
    assert reading.groups(9 * 6) == 9 and reading.groups(6) == 1


@pytest.mark.parametrize('name, scores', [
    ('yolox', 'multi_level_conv_cls'), ('rtmdet', 'rtm_cls')])
def test_a_layer_for_every_level(build, name, scores):
    model = build(name)
    found = place(model, 'logits')
    layers = list(getattr(model.bbox_head, scores))
    assert found.modules == list(dict.fromkeys(layers))
    assert len(found.modules) == 3
    assert found.reading.activation == 'sigmoid'


def test_two_stages(build):
    model = build('mask')
    logits = place(model, 'logits')
    assert logits.modules == [model.roi_head.bbox_head.fc_cls]
    assert not logits.is_map
    assert logits.reading.activation == 'softmax'
    assert logits.reading.groups(7) == 1  # six classes and background
    assert place(model, 'boxes').modules == [model.roi_head.bbox_head.fc_reg]
    masks = place(model, 'roi_head.mask_head.conv_logits')
    assert not masks.is_map and masks.reading.activation == 'sigmoid'
    rpn = place(model, 'rpn_head.rpn_cls')
    assert rpn.is_map
    assert rpn.reading == Reading('classes', 'sigmoid', 1)
    rois = place(model, 'rois')
    assert rois.modules == [model.roi_head.bbox_roi_extractor]
    assert rois.argument == 1 and rois.is_raw
    assert place(model, 'mask_rois').modules == [
        model.roi_head.mask_roi_extractor]


def test_the_last_stage_of_a_cascade(build):
    model = build('cascade')
    heads = model.roi_head.bbox_head
    last = place(model, 'logits')
    assert last.modules == [heads[-1].fc_cls]
    assert len(place(model, 'rois').modules) == 3
    # of an earlier one by its path, read alike
    first = place(model, 'roi_head.bbox_head.0.fc_cls')
    assert first.modules == [heads[0].fc_cls] and not first.is_map
    assert first.reading == last.reading


@pytest.mark.parametrize('source, needed', [
    ('logits', ['rois']), ('boxes', ['rois']), ('neck', []),
    ('roi_head.bbox_roi_extractor[0]', ['rois']),
    ('roi_head.mask_head.conv_logits', ['mask_rois']), ('rpn_head', [])])
def test_rois_a_teacher_needs(build, source, needed):
    model = build('mask')
    assert host_of(model).regions_for(model, source) == needed


def test_rois_are_no_matter_of_dense_heads(build):
    model = build('fcos')
    assert host_of(model).regions_for(model, 'logits') == []


def test_queries_of_the_last_layer(build):
    model = build('detr')
    states = torch.rand(2, 3, 12, 32)  # layers, images, queries, channels
    for source, kind in (('logits', 'classes'), ('boxes', 'values'),
                         ('bbox_head.fc_cls', 'classes'),
                         ('bbox_head.fc_reg', 'values')):
        tap = opened(model, source)
        scores, boxes = model.bbox_head(states)
        level, = tap.take()
        assert torch.equal(level[:, :7, :, 0], scores[-1].transpose(1, 2))
        assert torch.equal(level[:, 7:, :, 0], boxes[-1].transpose(1, 2))
        assert not tap.place.is_map
        assert tap.place.queries == 12
        assert tap.place.reading.kind == kind
        assert tap.place.reading.activation == 'softmax'


def test_queries_made_from_labels_are_left_out(build):
    model = build('deformable')
    tap = opened(model, 'logits')
    # 5 more in front, as in DINO's training
    scores, boxes = model.bbox_head(
        torch.rand(2, 3, 17, 32), [torch.rand(3, 17, 2)] * 3)
    level, = tap.take()
    assert torch.equal(level[:, :6, :, 0], scores[-1, :, 5:].transpose(1, 2))
    assert torch.equal(level[:, 6:, :, 0], boxes[-1, :, 5:].transpose(1, 2))


@pytest.mark.parametrize('source', ['depth', 'mask_rois', 'rois', 'nek'])
def test_what_a_dense_detector_does_not_have(build, source):
    with pytest.raises(ConfigError, match=(
            f"key = '{source}'.*'(neck|features)'")):
        place(build('fcos'), source)


def test_labels_and_boxes_of_a_sample():
    host, sample = MMDetHost(), BaseDataElement()
    assert host.boxes(sample) is None and host.class_map(sample) is None
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[1, 2, 3, 4]]), labels=torch.tensor([5]))
    boxes, labels = host.boxes(sample)
    assert boxes.tolist() == [[1., 2., 3., 4.]] and labels.tolist() == [5]


def test_what_the_host_says_of_a_detector(build):
    model = build('fcos')
    host = host_of(model)
    assert host.has_fixed_strides(model)
    assert host.num_classes(model) == 6
    assert host.ignore_index(model) == -100
    context = BatchContext(model, torch.zeros(1, 3, 8, 8), None)
    assert context.layout.padding_label == -100
