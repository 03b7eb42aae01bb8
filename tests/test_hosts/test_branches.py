"""The branches of a dense head, and what follows a split of them."""
from contextlib import ExitStack

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmselfkd.errors import ConfigError
from mmselfkd.hosts import host_of
from mmselfkd.hosts.branches import HeadEnd
from mmselfkd.taps import Tap

LEVELS = 5
SIZES = [(8, 6), (4, 3), (2, 2), (1, 1), (1, 1)]
every_head = pytest.mark.parametrize(
    'name', ['retinanet', 'fcos', 'atss', 'gfl'])


@pytest.fixture
def build(detectors):
    def build(name, **head):
        torch.manual_seed(0)
        cfg = dict(detectors.model(name), _scope_='mmdet')
        cfg['bbox_head'].update(head)
        model = MODELS.build(cfg).eval()
        for parameter in model.bbox_head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        for number, scale in enumerate(getattr(model.bbox_head, 'scales', ())):
            scale.scale.data.fill_(1 + number / 10)
        return model
    return build


def branches(model, source):
    """What a tap gives, and what the head does."""
    image = torch.randn(2, 3, 64, 48, generator=torch.Generator())
    with ExitStack() as resources, torch.no_grad():
        tap = Tap(model, source, 'key', resources)
        tap.clone = True  # as after a rehearsal
        tap.open()
        outputs = model(image, mode='tensor')
        return tap.take(image.shape), outputs


@every_head
def test_the_rest_of_the_head_gives_what_the_head_gives(build, name):
    model = build(name)
    head = model.bbox_head
    priors = head.prior_generator.grid_priors(SIZES, device='cpu')
    for split in (0, 1, 4, -1):
        source = f'branches.{split}'
        found, (scores, boxes, *_) = branches(model, source)
        assert len(found) == 2 * LEVELS
        before = [each.clone() for each in found]
        with torch.no_grad():
            given = host_of(model).head_end(model, source, 'key')(found)
        assert all(map(torch.equal, before, found))  # an activation in place
        for level, (one, other) in enumerate(given):
            torch.testing.assert_close(one.flatten(1, 2), scores[level])
            if name == 'gfl':
                torch.testing.assert_close(other.flatten(1, 2), boxes[level])
                continue
            for n in range(2):
                decoded = head.bbox_coder.decode(
                    priors[level],
                    boxes[level][n].permute(1, 2, 0).reshape(-1, 4))
                torch.testing.assert_close(
                    other[n].permute(2, 3, 0, 1).reshape(-1, 4), decoded)


@pytest.mark.parametrize('options', [
    dict(norm_on_bbox=True), dict(norm_on_bbox=False)])
def test_distances_of_fcos_are_pixels(build, options):
    model = build('fcos', **options)
    found, (_, boxes, _) = branches(model, 'branches.-1')
    with torch.no_grad():
        given = host_of(model).head_end(model, 'branches.-1', 'k')(found)
    points = model.bbox_head.prior_generator.grid_priors(SIZES, device='cpu')
    x, y = points[0].view(8, 6, 2).unbind(-1)
    x1, y1, x2, y2 = given[0][1][1, 0]
    torch.testing.assert_close(
        torch.stack([x - x1, y - y1, x2 - x, y2 - y]), boxes[0][1],
        rtol=1e-5, atol=1e-4)
    assert (boxes[0][1] == 0).any() == options['norm_on_bbox']  # clamped


def test_where_they_are(build):
    model = build('retinanet')
    host, head = host_of(model), model.bbox_head
    place = host.place(model, 'branches.2', 'key')
    assert place.modules == [
        head.cls_convs[1].activate, head.reg_convs[1].activate]
    assert place.argument == 0 and place.is_map and place.reading is None
    assert host.place(model, 'branches', 'key').modules == host.place(
        model, 'branches.3', 'key').modules
    assert host.place(model, 'branches.0', 'key').modules == [model.neck]
    positives = host.place(model, 'positives', 'key')
    assert positives.modules == [head.loss_cls] and positives.is_raw
    assert host.head_end(model, 'features', 'key') is None


@pytest.mark.parametrize('source', [
    'branches.5', 'branches.-5', 'branches.x', 'branches.1.2'])
def test_splits_that_there_are_not(build, source):
    model = build('atss')
    with pytest.raises(ConfigError, match=(
            r'key: the branches of this ATSSHead have 4 convolutions; '
            r'branches\.0 to branches\.4, or branches\.-4 to branches\.-1')):
        host_of(model).place(model, source, 'key')


@pytest.mark.parametrize('name, head', [
    ('faster', 'Shared2FCBBoxHead'), ('yolox', 'YOLOXHead'),
    ('detr', 'DETRHead')])
def test_heads_without(detectors, name, head):
    model = MODELS.build(dict(detectors.model(name), _scope_='mmdet'))
    with pytest.raises(ConfigError, match=(
            f'key: the head, a {head}, has not two branches .*RetinaHead, '
            "GFLHead.*'PKDLoss' with source='features'")):
        host_of(model).place(model, 'branches.-1', 'key')


def test_a_subclass_that_runs_them_otherwise(build):
    model = build('retinanet')
    cls = type(model.bbox_head)
    model.bbox_head.__class__ = type('Own', (cls, ), {})
    HeadEnd(model.bbox_head, 'branches.-1', 'key')
    model.bbox_head.__class__ = type('Own', (cls, ), dict(
        forward_single=lambda self, x: None))
    with pytest.raises(ConfigError, match='an? Own, has not two branches'):
        HeadEnd(model.bbox_head, 'branches.-1', 'key')


@pytest.mark.parametrize('convs', [
    nn.ModuleList(), nn.ModuleList([nn.ModuleList()]), None])
def test_a_subclass_without_convolutions_in_a_row(build, convs):
    """As DyHead has none, RTMDet a list for each level, TOOD others."""
    model = build('retinanet')
    del model.bbox_head.cls_convs, model.bbox_head.reg_convs
    if convs is not None:
        model.bbox_head.cls_convs = model.bbox_head.reg_convs = convs
    with pytest.raises(ConfigError, match='convolutions in a row'):
        host_of(model).place(model, 'branches.-1', 'key')


def test_scores_of_a_softmax(build):
    model = build('retinanet')
    model.bbox_head.use_sigmoid_cls = False
    with pytest.raises(ConfigError, match='read by a softmax.*PKDLoss'):
        HeadEnd(model.bbox_head, 'branches.-1', 'key')


def test_maps_of_some_levels(build):
    model = build('gfl')
    end = HeadEnd(model.bbox_head, 'branches.-1', 'key')
    with pytest.raises(ValueError, match='4 maps.*all 5 levels'):
        end([torch.rand(1, 32, 4, 4)] * 4)
