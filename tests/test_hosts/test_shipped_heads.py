"""The heads that mmseg and mmdet ship: read as their own losses read them.

Models are shipped configs, narrowed (``benchmarks/shipped_heads.py``). Of
each head the cheapest config; all heads and all methods are the business of
``benchmarks/hosts_table.py``, whose page is checked at the end.
"""
import copy
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import shipped_heads  # noqa: E402
from shipped_heads import DETECTORS, SEGMENTORS, SHIPPED  # noqa: E402

from mmselfkd.distillation.agreement import class_agreement  # noqa: E402
from mmselfkd.distillation.level_matching import LevelMatcher  # noqa: E402
from mmselfkd.distillation.loss_config import LossConfig  # noqa: E402
from mmselfkd.hosts import host_of  # noqa: E402
from mmselfkd.hosts.places import split_queries  # noqa: E402
from mmselfkd.taps import Tap  # noqa: E402
from mmselfkd.teachers import BatchContext, ModelTeacher  # noqa: E402

DROPS = (nn.modules.dropout._DropoutNd, )


def ready(shipped):
    """A model with its start, without dropout, and a batch of two images."""
    cfg = shipped_heads.config('.', shipped)
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope(shipped.host):
        model = MODELS.build(cfg.model)
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=3)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, DROPS):
            module.p = 0.
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.
    data = model.data_preprocessor(next(iter(loader)), True)
    model.train()
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):  # that some heads ask for
        hub.update_info(name, 0)
    return model, data['inputs'], data['data_samples']


def levels_of(model, inputs, samples, source='logits', patched=()):
    """What a source gives in ``mode='loss'``, and its place.

    ``patched`` are (owner, name) of methods; their arguments are returned.
    """
    seen = []
    with ExitStack() as resources:
        for owner, name in patched:
            own = getattr(owner, name)
            resources.enter_context(mock.patch.object(
                owner, name, side_effect=lambda *args, own=own, **kwargs: (
                    seen.append((args, kwargs)), own(*args, **kwargs))[1]))
        tap = Tap(model, source, 'key', resources)
        tap.open()
        model(inputs, host_of(model).snapshot(samples), mode='loss')
        tap.close()
        return tap.take(inputs.shape), tap.place, seen


def probabilities(levels, reading):
    """(n, K) of each level: one row an image, anchor and position."""
    rows = []
    for level in levels:
        groups = reading.groups(level.shape[1])
        scores = level.unflatten(1, (groups, -1)).movedim(2, -1).flatten(
            0, -2)
        rows.append(scores.sigmoid() if reading.activation == 'sigmoid'
                    else scores.softmax(-1))
    return rows


def in_rows(maps, size):
    """The same of what the host's loss sees: (N, A K, H, W)."""
    return [x.unflatten(1, (-1, size)).movedim(2, -1).flatten(0, -2)
            for x in maps]


# -- what the host's own loss makes of the scores ----------------------------


def dense(args, head):
    """Of a dense head: class scores are the first argument."""
    rows = in_rows(args[0], head.cls_out_channels)
    return [x.sigmoid() if head.use_sigmoid_cls else x.softmax(-1)
            for x in rows]


def sigmoid_of(number):
    return lambda args, head: [
        x.sigmoid() for x in in_rows(args[number], head.cls_out_channels)]


def yolo(args, head):
    return [x.unflatten(1, (head.num_base_priors, head.num_attrib))[:, :, 5:]
            .movedim(2, -1).flatten(0, -2).sigmoid() for x in args[0]]


def corners(args, head):
    return [x.sigmoid() for x in in_rows(
        [args[0][-1], args[1][-1]], head.num_classes)]


def queries(args, head):
    last = args[0][-1]
    return [(last.sigmoid() if head.loss_cls.use_sigmoid
             else last.softmax(-1)).flatten(0, 1)]


def pixels(pick=lambda x: x, activation='softmax'):
    """Of a segmentation head: one map of the scores of each pixel."""

    def rows(args, head):
        scores = pick(args[0])
        return in_rows([scores.softmax(1) if activation == 'softmax'
                        else scores.sigmoid()], scores.shape[1])

    return rows


FIRST, LAST = (lambda x: x[0]), (lambda x: x[-1])
DENSE = ('atss autoassign boxinst centernet_update condinst dyhead fcos '
         'foveabox free_anchor fsaf ga_retinanet gfl ghm ld nas_fcos '
         'pisa_retinanet reppoints retinanet rpn rtmdet rtmdet_ins '
         'sabl_retinanet ssdlite vfnet yolact yolof yolox').split()
PLAIN = ('ann apcnet bisenetv1 ccnet dmnet dpt emanet fastscnn fcn gcnet '
         'isanet ocrnet pspnet psanet segformer segmenter sem_fpn setr_naive '
         'stdc upernet').split()
# head -> (the head inside the model, the method, what it sees as rows)
REFERENCES = {f'mmdet/{name}': ('bbox_head', dense) for name in DENSE} | {
    f'mmseg/{name}': ('decode_head', pixels()) for name in PLAIN} | {
    'mmseg/fastscnn': ('decode_head', pixels(activation='sigmoid')),
    'mmdet/tood': ('bbox_head', lambda args, head: in_rows(
        args[0], head.num_classes)),
    'mmdet/centernet': ('bbox_head', lambda args, head: in_rows(
        args[0], head.num_classes)),
    'mmdet/yolov3': ('bbox_head', yolo),
    'mmdet/solo': ('mask_head', sigmoid_of(1)),
    'mmdet/decoupled_solo': ('mask_head', sigmoid_of(2)),
    'mmdet/solov2': ('mask_head', sigmoid_of(1)),
    'mmdet/detr': ('bbox_head', queries),
    'mmdet/deformable_detr': ('bbox_head', queries),
    'mmseg/ocrnet': ('decode_head.1', pixels()),
    'mmseg/pointrend': ('decode_head.0', pixels()),
    'mmseg/encnet': ('decode_head', pixels(FIRST)),
    'mmseg/danet': ('decode_head', pixels(FIRST)),
    'mmseg/ddrnet': ('decode_head', pixels(FIRST)),
    'mmseg/pidnet': ('decode_head', pixels(lambda x: x[1])),
    'mmseg/knet_fcn': ('decode_head', pixels(LAST))}


def kd(**options):
    return LossConfig('loss_kd', dict(dict(
        type='KDLoss', source='logits', ignore_index=None), **options), 'key',
        ['teacher'])


def teach(model, twin, inputs, samples, source='logits'):
    """What a copy of ``model`` says of the batch, in the same mode."""
    teacher = ModelTeacher(twin)
    teacher.request(source, 'key', model)
    with ExitStack() as resources:
        taps = {path: Tap(model, path, 'key', resources)
                for path in teacher.student_sources}
        for tap in taps.values():
            tap.open()
        torch.manual_seed(0)
        model(inputs, host_of(model).snapshot(samples), mode='loss')
        context = BatchContext(model, inputs, samples, {
            path: tap.take() for path, tap in taps.items()})
    teacher.fit(context, ExitStack())
    if not hasattr(model, 'encoder'):  # a DETR trains on labels only
        twin.train()  # batch statistics, as in the student
    output = teacher.rehearse(context)
    return output.levels[source], teacher.place(source)


@pytest.mark.parametrize('name', sorted(REFERENCES))
def test_scores_are_read_as_the_heads_own_loss_reads_them(name):
    model, inputs, samples = ready(SHIPPED[name])
    twin = copy.deepcopy(model)
    path, expected = REFERENCES[name]
    head = model.get_submodule(path)
    torch.manual_seed(0)
    levels, place, seen = levels_of(
        model, inputs, samples, patched=[(head, 'loss_by_feat')])
    args, _ = seen[-1]
    rows = probabilities([split_queries(x)[0] for x in levels] if (
        place.queries) else levels, place.reading)
    wanted = expected(args, head)
    assert len(rows) == len(wanted)
    for ours, theirs in zip(rows, wanted):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert_same_model_has_nothing_to_teach(
        model, twin, inputs, samples, levels, place)


def assert_same_model_has_nothing_to_teach(model, twin, inputs, samples,
                                           levels, place):
    """A KDLoss of 0 and agreement 1, and a constant changes nothing."""
    theirs, their_place = teach(model, twin, inputs, samples)
    config = kd()
    layout = BatchContext(model, inputs, samples).layout
    matcher = LevelMatcher(config, levels, theirs, [place], [their_place])

    def value(student):
        return float(sum(config.loss(s, t) for s, t in matcher(
            student, theirs, layout)))

    assert value(levels) == pytest.approx(0, abs=1e-6)
    assert all(class_agreement(s, t) == 1
               for s, t in matcher(levels, theirs, layout))
    assert value([x + torch.randn_like(x) for x in levels]) > 1e-4
    if config.loss.activation == 'softmax':  # of one anchor's classes
        size = place.reading.size or levels[0].shape[1]
        shifted = [
            torch.cat([x[:, :size] + 3, x[:, size:]], 1) if place.queries
            else (x.unflatten(1, (-1, size)) + torch.arange(
                x.shape[1] // size).view(1, -1, 1, 1, 1)).flatten(1, 2)
            for x in levels]
        assert value(shifted) == pytest.approx(0, abs=1e-5)


# -- regions, queries, masks and boxes ---------------------------------------


def of_regions(args, kwargs, head):
    scores = kwargs['cls_score'] if 'cls_score' in kwargs else args[0]
    if head.custom_activation:
        return [head.loss_cls.get_activation(scores)]
    return [scores.softmax(-1)]


def of_two_objects(args, kwargs, head):
    scores = args[2] if head.with_refine else args[0]
    return [x.softmax(-1) for x in scores.unflatten(1, (2, -1)).unbind(1)]


REGIONS = {'faster_rcnn': of_regions, 'cascade': of_regions,
           'double_heads': of_regions, 'dynamic_rcnn': of_regions,
           'fast_rcnn': of_regions, 'seesaw': of_regions, 'htc': of_regions,
           'scnet': of_regions, 'sabl_faster': of_regions}


@pytest.mark.parametrize('name', sorted(REGIONS))
def test_scores_of_regions(name):
    model, inputs, samples = ready(DETECTORS[name])
    twin = copy.deepcopy(model)
    head = model.roi_head.bbox_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    torch.manual_seed(0)
    levels, place, seen = levels_of(
        model, inputs, samples, patched=[(head, 'loss_and_target')])
    assert not place.is_map
    rows = probabilities(levels, place.reading)
    wanted = REGIONS[name](*seen[-1], head)
    for ours, theirs in zip(rows, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert_same_model_has_nothing_to_teach(
        model, twin, inputs, samples, levels, place)


@pytest.mark.parametrize('name', ['crowddet', 'crowddet_refine'])
def test_scores_of_two_objects_in_a_region(name):
    model, inputs, samples = ready(DETECTORS[name])
    head = model.roi_head.bbox_head
    levels, place, _ = levels_of(model, inputs, samples)
    refined = head.fc_cls_ref if head.with_refine else head.fc_cls
    assert place.modules == list(refined) and len(levels) == 2
    assert place.reading.activation == 'softmax'
    assert all(level.shape[1] == 2 for level in levels)  # person or nothing


@pytest.mark.parametrize('name', ['mmseg/maskformer', 'mmseg/mask2former',
                                  'mmdet/mask2former', 'mmdet/maskformer'])
def test_scores_of_a_mask_classifier_are_class_times_mask(name):
    model, inputs, samples = ready(SHIPPED[name])
    head = getattr(model, 'decode_head', None) or model.panoptic_head
    outputs = []
    handle = head.register_forward_hook(
        lambda head, args, out: outputs.append(out))
    levels, place, _ = levels_of(model, inputs, samples)
    handle.remove()
    classes, masks = (x[-1].detach() for x in outputs[-1])
    level, = levels
    assert level.shape == (2, head.num_classes, *masks.shape[2:])
    for n, y, x in ((0, 0, 0), (1, 3, 5)):
        share = torch.zeros(head.num_classes)
        for query in range(masks.shape[1]):
            share += classes[n, query].softmax(0)[:-1] * masks[
                n, query, y, x].sigmoid()
        ours = level[n, :, y, x].softmax(0)
        assert torch.allclose(ours, share / share.sum(), atol=1e-5)


def test_scores_of_masks_classified_by_texts():
    """SAN: the map is what its own inference makes of the same outputs."""
    model, inputs, samples = ready(SEGMENTORS['san'])
    levels, place, _ = levels_of(model, inputs, samples)
    model.eval()
    with torch.no_grad():
        tap = Tap(model, 'logits', 'key', ExitStack())
        tap.open()
        seen = []
        with mock.patch.object(
                model.decode_head, 'predict_by_feat',
                side_effect=lambda outputs, metas: seen.append(outputs)):
            host_of(model).run_to_predict(model, inputs, samples)
        level, = tap.take(inputs.shape)
    masks, classes = seen[0]
    share = torch.einsum('nqk,nqhw->nkhw', classes.softmax(-1)[..., :-1],
                         masks.sigmoid())
    assert torch.allclose(level.softmax(1), share / share.sum(1, True),
                          atol=1e-5)
    assert levels[0].shape == level.shape


def test_boxes_of_gfl_are_distributions_by_side():
    model, inputs, samples = ready(DETECTORS['gfl'])
    twin = copy.deepcopy(model)
    head = model.bbox_head
    for number, scale in enumerate(head.scales):  # what is learnt
        scale.scale.data.fill_(1.5 + number)
    twin.load_state_dict(model.state_dict())
    levels, place, seen = levels_of(
        model, inputs, samples, 'boxes', [(head, 'loss_by_feat')])
    for ours, theirs in zip(levels, seen[0][0][1], strict=True):
        assert torch.equal(ours, theirs)
    assert place.reading.kind == 'distributions'
    theirs, their_place = teach(model, twin, inputs, samples, 'boxes')
    config = kd(source='boxes')
    matcher = LevelMatcher(config, levels, theirs, [place], [their_place])
    layout = BatchContext(model, inputs, samples).layout

    def value(student):
        return float(sum(config.loss(s, t) for s, t in matcher(
            student, theirs, layout)))

    assert value(levels) == pytest.approx(0, abs=1e-6)
    bins = head.reg_max + 1
    side = torch.zeros(1, 4 * bins, 1, 1)
    side[:, bins:2 * bins] = 3.
    assert value([x + side for x in levels]) == pytest.approx(0, abs=1e-5)
    side[:, bins] += 1.  # one bin of that side
    assert value([x + side for x in levels]) > 1e-3
    # a host's own integral of the same probabilities
    level = levels[0]
    ours = level.unflatten(1, (4, bins)).softmax(2).mul(
        torch.arange(float(bins)).view(1, 1, -1, 1, 1)).sum(2)
    assert torch.allclose(
        head.integral(level.permute(0, 2, 3, 1).flatten(0, 2)),
        ours.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-4)


@pytest.mark.parametrize('name', [
    'detr', 'dab_detr', 'conditional_detr', 'dino', 'ddq'])
def test_queries_made_from_labels_are_left_out(name):
    model, inputs, samples = ready(DETECTORS[name])
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    head, queries = model.bbox_head, model.num_queries
    levels, place, seen = levels_of(
        model, inputs, samples, patched=[(head, 'loss_by_feat_single')])
    level, = levels
    assert level.shape == (2, head.cls_out_channels + 4, queries, 1)
    assert place.queries == queries
    assert place.reading.activation == (
        'softmax' if name == 'detr' else 'sigmoid')
    if name != 'ddq':  # whose loss sees some of them
        # as the host's own loss sees them, in the last decoder layer
        (scores, boxes, *_), _ = [args for args in seen if args[0][0].shape[
            1] == queries][model.decoder.num_layers - 1]
        assert torch.equal(level[..., 0].transpose(1, 2),
                           torch.cat([scores, boxes], 2))
    assert_same_model_has_nothing_to_teach(
        model, twin, inputs, samples, levels, place)


# -- semantic heads of detectors, backbones that change with the mode ---------


SEMANTIC = dict(panoptic_fpn='semantic_head', htc='roi_head.semantic_head',
                scnet='roi_head.semantic_head')


@pytest.mark.parametrize('name', SEMANTIC)
def test_a_semantic_head_has_class_scores_and_labels_of_its_own(name):
    model, inputs, samples = ready(DETECTORS[name])
    twin = copy.deepcopy(model)
    head = model.get_submodule(SEMANTIC[name])
    source = f'{SEMANTIC[name]}.conv_logits'
    owner = head if hasattr(head, 'criterion') else head.loss_seg
    torch.manual_seed(0)
    levels, place, seen = levels_of(model, inputs, samples, source, [
        (owner, 'loss' if owner is head else 'forward')])
    (scores, label, *_), _ = seen[-1]
    level, = levels
    assert place.is_map and place.ignore_index == 255
    assert place.reading.activation == 'softmax'
    assert place.reading.size == level.shape[1] == head.num_classes
    ours = BatchContext(model, inputs, samples).layout.label(place.class_map)
    if owner is head:  # at the size of the image
        assert torch.equal(scores, level)
        assert torch.equal(ours, label.squeeze(1))
    else:  # a row for each position
        assert torch.equal(
            scores, level.permute(0, 2, 3, 1).flatten(0, 2))
        size = level.shape[2:]
        small = nn.functional.interpolate(ours[:, None].float(), size)
        assert torch.equal(small.flatten().long(), label)
    assert len(ours.unique()) > 1
    theirs, their_place = teach(model, twin, inputs, samples, source)
    assert their_place.is_map and theirs[0].shape == level.shape


@pytest.mark.parametrize('name, main', [('ddrnet', 1), ('pidnet', 1)])
def test_the_main_map_of_a_backbone_is_the_last(name, main):
    """In training it gives several maps, in eval mode the main one alone."""
    model, inputs, samples = ready(SEGMENTORS[name])
    model.eval()
    model.backbone.training = True  # the norms stay in eval mode
    seen = []
    handle = model.backbone.register_forward_hook(
        lambda module, args, out: seen.append(out))

    def stages():
        tap = Tap(model, 'backbone', 'key', ExitStack())
        tap.open()
        model.extract_feat(inputs)
        return tap.take(inputs.shape)

    several = stages()
    model.backbone.training = False
    alone, = stages()
    handle.remove()
    assert len(several) == len(seen[0]) > 1
    assert torch.equal(several[-1], alone)
    assert torch.equal(seen[0][main], alone)
    assert {id(level) for level in several} == {id(x) for x in seen[0]}
