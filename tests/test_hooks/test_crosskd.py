"""CrossKD in a real Runner: where its gradient goes, what does not fit."""
import functools

import pytest
import tiny_runs
import torch
from helpers import At, assert_equal, copied, teacher_model, train

import mmselfkd
from mmselfkd import ConfigError
from mmselfkd.losses import CrossKDLoss


def crosskd(detectors, name, width=8, **entry):
    return dict(
        type='mmselfkd.CrossKDHook', teacher=detectors.teacher(name, width),
        losses=dict(loss_crosskd=entry))


def refused(detectors, folder, match, name='retinanet', **entry):
    with pytest.raises(ConfigError, match=match):
        train(detectors.config(
            folder, name, crosskd(detectors, name, **entry)))


@pytest.mark.parametrize('name, source, split', [
    ('retinanet', 'branches.-1', 3), ('fcos', 'branches.2', 2),
    ('atss', 'branches.0', 0)])
def test_the_gradient_ends_at_the_split_of_the_student(
        detectors, tmp_path, monkeypatch, name, source, split):
    seen, forward = [], CrossKDLoss.forward

    def look(self, student, teacher, **options):
        seen.append((student, teacher, options))
        return forward(self, student, teacher, **options)

    monkeypatch.setattr(CrossKDLoss, 'forward', look)
    hook = crosskd(detectors, name, source=source)
    hook['task_schedule'] = dict(type='LinearRamp', end=2)  # begins with 0
    state, grads = {}, {}

    def keep(key, grad):
        grads.setdefault(key, grad.abs().max())

    def start(runner):
        model = teacher_model(runner)
        state.update(model=model, weights=copied(model.state_dict()))
        for key, p in runner.model.named_parameters():  # the first counts
            if p.requires_grad:
                p.register_hook(functools.partial(keep, key))

    train(detectors.config(tmp_path, name, hook), At(before_train=start))
    teacher = state['model']
    assert_equal(teacher.state_dict(), state['weights'])
    assert all(p.grad is None for p in teacher.parameters())
    for branch in ('cls_convs', 'reg_convs'):
        for number in range(4):
            grad = grads.get(f'bbox_head.{branch}.{number}.conv.weight', 0)
            assert (grad > 0) if number < split else (not grad), (
                branch, number)
    assert grads['backbone.layer4.0.downsample.0.weight'] > 0
    last = dict(retinanet='retina_cls', fcos='conv_cls', atss='atss_reg')
    assert not grads[f'bbox_head.{last[name]}.weight']
    student, taught, options = seen[-1]
    assert len(student) == len(taught) == len(options['weight']) == 10
    assert options['positives'] >= 1


def test_the_positives_are_those_of_the_class_loss(
        detectors, tmp_path, monkeypatch):
    given, forward = [], CrossKDLoss.forward
    monkeypatch.setattr(CrossKDLoss, 'forward', lambda *a, **options: (
        given.append(float(options['positives'])), forward(*a, **options))[1])
    divided = []

    def start(runner):
        runner.model.bbox_head.loss_cls.register_forward_pre_hook(
            lambda module, args, kwargs: divided.append(
                float(kwargs['avg_factor'])), with_kwargs=True)

    train(detectors.config(tmp_path, 'atss', crosskd(detectors, 'atss')),
          At(before_train=start))
    assert given[1:] == divided[::5] and len(given) == 3  # one rehearses
    assert max(given) > 1


def test_heads_of_other_kinds_widths_depths_and_classes(detectors, tmp_path):
    hook = crosskd(detectors, 'gfl', width=16)
    head = hook['teacher']['config']['model']['bbox_head']
    head.update(feat_channels=64, stacked_convs=2, num_classes=3)
    runner, logs = train(detectors.config(tmp_path, 'atss', hook))
    assert all(entry['distill.loss_crosskd'] > 0 for entry in logs.entries)


def test_padding_and_foreground_weigh(detectors, tmp_path, monkeypatch):
    seen, forward = [], CrossKDLoss.forward
    monkeypatch.setattr(CrossKDLoss, 'forward', lambda *a, **options: (
        seen.append(options['weight']), forward(*a, **options))[1])
    for foreground in (None, 0.5):
        _, logs = train(detectors.config(
            tmp_path, 'gfl', crosskd(
                detectors, 'gfl', foreground=foreground), size=128))
        assert all(entry['distill.loss_crosskd'] > 0
                   for entry in logs.entries)
    plain, weighed = seen[0], seen[3]
    assert plain[0] is not None and set(plain[0].unique().tolist()) == {0, 1}
    assert torch.equal(plain[0] > 0, weighed[0] > 0)
    assert len(weighed[0].unique()) > 2


def test_splits_that_a_head_has_not(detectors, tmp_path):
    refused(detectors, tmp_path, (
        r"CrossKDHook\.losses\.loss_crosskd\.source = 'branches\.9': .*"
        r'RetinaHead have 4 convolutions; branches\.0 to branches\.4'),
        source='branches.9')


def test_other_sources(detectors, tmp_path):
    refused(detectors, tmp_path, (
        r"loss_crosskd\.source = 'features': CrossKDLoss passes features "
        r"through .*; write source='branches\.-1'"), source='features')


def test_some_levels(detectors, tmp_path):
    refused(detectors, tmp_path, 'loss_crosskd: 1 maps of the student',
            source='branches.-1[0]')


def test_heads_without_branches(detectors, tmp_path):
    refused(detectors, tmp_path, (
        r"loss_crosskd\.source = 'branches\.-1': the head, a "
        r'Shared2FCBBoxHead, has not .*RetinaHead, GFLHead, ATSSHead, '
        r"FCOSHead.*type='PKDLoss'"),
        name='faster')


def test_a_class_loss_that_is_not_divided(detectors, tmp_path):
    cfg = detectors.config(
        tmp_path, 'retinanet', crosskd(detectors, 'retinanet'))
    cfg.model.bbox_head.type = 'FreeAnchorRetinaHead'
    cfg.model.bbox_head.loss_bbox = dict(type='SmoothL1Loss', beta=0.11)
    with pytest.raises(ConfigError, match=(
            'the class loss of a FreeAnchorRetinaHead is not divided by its '
            r"positives.*'PKDLoss'")):
        train(cfg)


@pytest.mark.parametrize('options, named', [
    ({}, r'branches\.-1'), (dict(source='features'), 'positives')])
def test_a_segmentor(tmp_path, options, named):
    cfg = tiny_runs.config(tmp_path, dict(
        type='mmselfkd.CrossKDHook', teacher=tiny_runs.teacher(),
        losses=dict(loss_crosskd=options)))
    with pytest.raises(ConfigError, match=(
            rf"loss_crosskd\.source = '{named}': a dense detector has "
            "such, and a EncoderDecoder is none")):
        train(cfg)


def test_the_split_is_an_option_of_the_source():
    hook = mmselfkd.CrossKDHook(
        teacher=dict(config='any.py', checkpoint='any.pth'),
        losses=dict(loss_crosskd=dict(source='branches.2')))
    loss, = hook.plan.losses
    assert [source.path for source in loss.sources] == [
        'branches.2', 'branches.2', 'positives']
