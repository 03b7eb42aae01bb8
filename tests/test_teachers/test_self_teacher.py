"""SelfTeacher: a neck and a head on the student's levels."""
import dataclasses
from contextlib import ExitStack

import pytest
import torch
from helpers import assert_equal, assert_untouched, copied
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd import ConfigError, SelfTeacher
from mmselfkd.registry import MODELS
from mmselfkd.teachers import BatchContext


@pytest.fixture
def student(tiny):
    return MODELS.build(dict(tiny.model(4), _scope_='mmseg'))


def context_for(student, source='pyramid', ignore=False, pick=None):
    inputs = torch.rand(2, 3, 32, 32)
    levels = list(student.backbone(inputs))
    samples = [SegDataSample() for _ in inputs]
    for sample in samples:
        label = torch.randint(0, 7, (1, 32, 32))
        sample.gt_sem_seg = PixelData(data=label * 0 + 255 if ignore
                                      else label)
    levels = levels if pick is None else [levels[i] for i in pick]
    return BatchContext(student, inputs, samples, {source: levels})


def rehearse(teacher, context):
    """As a run does it: on levels without gradient."""
    levels = {k: [x.detach() for x in v] for k, v in context.levels.items()}
    return teacher.rehearse(dataclasses.replace(context, levels=levels))


def fitted(student, context=None, requests=('neck', 'logits'),
           resources=None, **options):
    """The teacher, and the batch to which it was fitted."""
    teacher = SelfTeacher(**options)
    for source in requests:
        teacher.request(source, 'FRSKDHook.losses.loss_at.source', student)
    context = context or context_for(student)
    teacher.fit(context, resources or ExitStack())
    return teacher, context


def test_channels_and_classes_are_the_students(student):
    student.decode_head.ignore_index = 3
    teacher, context = fitted(student)
    output = rehearse(teacher, context)
    channels = [x.shape[1] for x in context.levels['pyramid']]
    assert [x.shape[1] for x in output.levels['neck']] == [
        2 * c for c in channels]
    assert [x.shape[2:] for x in output.levels['neck']] == [
        x.shape[2:] for x in context.levels['pyramid']]
    assert output.levels['logits'][0].shape[1] == 7
    head = teacher.module.decode_head
    assert head.loss_decode.avg_non_ignore  # as the student's
    assert head.ignore_index == 3
    assert head.loss_decode is not student.decode_head.loss_decode


def test_own_loss_trains_it_and_the_student(student):
    teacher, context = fitted(student)
    rehearse(teacher, context)
    output = teacher.teach(context, ['neck'])
    assert list(output.losses) == ['loss_ce']
    output.losses['loss_ce'].backward()
    for name, p in teacher.module.named_parameters():
        assert p.grad is not None, name
    assert all(p.grad is not None for p in student.backbone.parameters())


def test_own_loss_is_the_heads_task_loss(student):
    """By hand: cross entropy of the logits enlarged to the labels."""
    teacher, context = fitted(student, head=dict(
        type='SegformerHead', dropout_ratio=0.))
    output = teacher.teach(context, None)
    label = torch.stack([s.gt_sem_seg.data[0] for s in context.samples])
    logits = torch.nn.functional.interpolate(
        output.levels['logits'][0], size=(32, 32), mode='bilinear')
    expected = torch.nn.functional.cross_entropy(logits, label)
    torch.testing.assert_close(output.losses['loss_ce'], expected)


def test_rehearsal_leaves_nothing(student):
    teacher, context = fitted(student)
    before = copied(teacher.module.state_dict())
    rehearse(teacher, context)
    assert_equal(copied(teacher.module.state_dict()), before)
    assert all(p.grad is None for p in teacher.module.parameters())


def test_all_ignored_is_zero_and_finite(student):
    teacher, _ = fitted(student)
    output = teacher.teach(context_for(student, ignore=True), None)
    assert output.losses['loss_ce'] == 0
    output.losses['loss_ce'].backward()
    for p in teacher.module.parameters():
        assert torch.isfinite(p.grad).all()


def test_other_neck_and_head(student):
    teacher, context = fitted(
        student,
        neck=dict(type='mmseg.FPN', out_channels=8, num_outs=4),
        head=dict(type='FCNHead', in_index=3, channels=6, num_convs=1))
    with pytest.raises(ConfigError, match='do not reach'):  # fpn_convs.0..2
        rehearse(teacher, context)
    teacher, context = fitted(
        student,
        neck=dict(type='BiFPN', out_channels=8, last='top_down'),
        head=dict(type='FCNHead', in_index=0, channels=6, num_convs=1))
    output = rehearse(teacher, context)
    assert {x.shape[1] for x in output.levels['neck']} == {8}
    assert teacher.module.decode_head.in_channels == 8


def test_parts_without_gradient_are_named(student):
    teacher, context = fitted(student, head=dict(
        type='FCNHead', in_index=0, channels=6, num_convs=1))
    with pytest.raises(ConfigError, match="last='top_down'") as error:
        rehearse(teacher, context)
    assert 'neck.' in str(error.value)


@pytest.mark.parametrize('options, says', [
    (dict(neck=dict(type='BiFPM')), ['FRSKDHook.teacher.neck', 'BiFPM']),
    (dict(neck=dict(type='BiFPN', widht=1)),
     ['FRSKDHook.teacher.neck', 'widht']),
    (dict(head=dict(type='FCNHead', in_index=9)),
     ['FRSKDHook.teacher.head.in_index = 9', '4 levels']),
    (dict(head=dict(type='FCNHed')), ['FRSKDHook.teacher.head', 'FCNHed']),
])
def test_network_that_cannot_be_built(student, options, says):
    with pytest.raises(ConfigError) as error:
        fitted(student, key='FRSKDHook.teacher', **options)
    for part in says:
        assert part in str(error.value)


def test_one_level_is_not_enough(student):
    with pytest.raises(ConfigError, match='two or more'):
        fitted(student, context_for(student, pick=[3]))


def test_student_without_class_scores(student):
    context = context_for(student)
    del context.student.decode_head.conv_seg
    with pytest.raises(ConfigError, match='decode_head.*conv_seg'):
        fitted(student, context)
    with pytest.raises(ConfigError, match='a segmentor or a detector'):
        fitted(student, BatchContext(
            torch.nn.Module(), context.inputs, context.samples,
            context.levels))


def test_gone_when_closed(student):
    resources = ExitStack()
    teacher, _ = fitted(student, resources=resources)
    resources.close()
    assert_untouched(teacher.module)
