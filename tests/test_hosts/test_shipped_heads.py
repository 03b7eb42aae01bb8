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
from shipped_heads import SHIPPED  # noqa: E402

from mmselfkd.distillation.level_matching import LevelMatcher  # noqa: E402
from mmselfkd.distillation.loss_config import LossConfig  # noqa: E402
from mmselfkd.distillation.monitor import class_agreement  # noqa: E402
from mmselfkd.hosts import host_of  # noqa: E402
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
    return LossConfig('loss_kd', dict(
        type='KDLoss', source='logits', ignore_index=None, **options), 'key',
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
    twin.train()  # batch statistics, as in the student
    try:
        output = teacher.rehearse(context)
    except Exception:  # training needs labels
        twin.eval()
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
    rows = probabilities(levels, place.reading)
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
        shifted = [(x.unflatten(1, (-1, size)) + torch.arange(
            x.shape[1] // size).view(1, -1, 1, 1, 1)).flatten(1, 2)
            for x in levels]
        assert value(shifted) == pytest.approx(0, abs=1e-5)
