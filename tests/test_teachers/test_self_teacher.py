"""SelfTeacher: a neck and a head on the student's levels."""
import dataclasses

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmselfkd import ConfigError, SelfTeacher
from mmselfkd.registry import MODELS
from mmselfkd.teachers.teacher import Step

BN = dict(type='BN')


@pytest.fixture
def student(tiny):
    return MODELS.build(dict(tiny.model(4), _scope_='mmseg'))


def step_for(student, source='pyramid', ignore=False, pick=None):
    inputs = torch.rand(2, 3, 32, 32)
    levels = list(student.backbone(inputs))
    samples = [SegDataSample() for _ in inputs]
    for sample in samples:
        label = torch.randint(0, 7, (1, 32, 32))
        sample.gt_sem_seg = PixelData(data=label * 0 + 255 if ignore
                                      else label)
    levels = levels if pick is None else [levels[i] for i in pick]
    return Step(student, inputs, samples, {source: levels}, None)


def rehearse(teacher, step):
    """As the hook does it: on levels without gradient."""
    seen = {k: [x.detach() for x in v] for k, v in step.seen.items()}
    return teacher.rehearse(dataclasses.replace(step, seen=seen))


def fitted(student, step=None, requests=('neck', 'logits'), **options):
    teacher = SelfTeacher(**options)
    for source in requests:
        teacher.request(source, 'FRSKDHook.losses.loss_at.source', None)
    step = step or step_for(student)
    teacher.fit(step)
    return teacher, step


def test_channels_and_classes_are_the_students(student):
    teacher, step = fitted(student)
    lesson = rehearse(teacher, step)
    channels = [x.shape[1] for x in step.seen['pyramid']]
    assert [x.shape[1] for x in lesson.levels['neck']] == [
        2 * c for c in channels]
    assert [x.shape[2:] for x in lesson.levels['neck']] == [
        x.shape[2:] for x in step.seen['pyramid']]
    assert lesson.levels['logits'][0].shape[1] == 7
    head = teacher.module.decode_head
    assert head.loss_decode.avg_non_ignore  # as the student's
    assert head.loss_decode is not student.decode_head.loss_decode


def test_own_loss_trains_it_and_the_student(student):
    teacher, step = fitted(student)
    rehearse(teacher, step)
    lesson = teacher.teach(step, ['neck'])
    assert list(lesson.losses) == ['loss_ce']
    lesson.losses['loss_ce'].backward()
    for name, p in teacher.module.named_parameters():
        assert p.grad is not None, name
    assert all(p.grad is not None for p in student.backbone.parameters())


def test_own_loss_is_the_heads_task_loss(student):
    """By hand: cross entropy of the logits enlarged to the labels."""
    teacher, step = fitted(student, head=dict(
        type='SegformerHead', dropout_ratio=0.))
    lesson = teacher.teach(step, None)
    label = torch.stack([s.gt_sem_seg.data[0] for s in step.samples])
    logits = torch.nn.functional.interpolate(
        lesson.levels['logits'][0], size=(32, 32), mode='bilinear')
    expected = torch.nn.functional.cross_entropy(logits, label)
    torch.testing.assert_close(lesson.losses['loss_ce'], expected)


def test_rehearsal_leaves_nothing(student):
    teacher, step = fitted(student)
    before = {k: v.clone() for k, v in teacher.module.state_dict().items()}
    rehearse(teacher, step)
    for name, value in teacher.module.state_dict().items():
        assert torch.equal(before[name], value), name
    assert all(p.grad is None for p in teacher.module.parameters())


def test_all_ignored_is_zero_and_finite(student):
    teacher, _ = fitted(student)
    lesson = teacher.teach(step_for(student, ignore=True), None)
    assert lesson.losses['loss_ce'] == 0
    lesson.losses['loss_ce'].backward()
    for p in teacher.module.parameters():
        assert torch.isfinite(p.grad).all()


def test_other_neck_and_head(student):
    teacher, step = fitted(
        student,
        neck=dict(type='mmseg.FPN', out_channels=8, num_outs=4),
        head=dict(type='FCNHead', in_index=3, channels=6, num_convs=1))
    with pytest.raises(ConfigError, match='do not reach'):  # fpn_convs.0..2
        rehearse(teacher, step)
    teacher, step = fitted(
        student,
        neck=dict(type='BiFPN', out_channels=8, last='top_down'),
        head=dict(type='FCNHead', in_index=0, channels=6, num_convs=1))
    lesson = rehearse(teacher, step)
    assert {x.shape[1] for x in lesson.levels['neck']} == {8}
    assert teacher.module.decode_head.in_channels == 8


def test_parts_without_gradient_are_named(student):
    teacher, step = fitted(student, head=dict(
        type='FCNHead', in_index=0, channels=6, num_convs=1))
    with pytest.raises(ConfigError, match="last='top_down'") as error:
        rehearse(teacher, step)
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
        fitted(student, step_for(student, pick=[3]))


def test_student_without_class_scores(student):
    step = step_for(student)
    del step.student.decode_head
    with pytest.raises(ConfigError, match='segmentors only.*decode_head'):
        fitted(student, step)


def test_gone_when_removed(student):
    teacher, _ = fitted(student)
    teacher.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in teacher.module.modules())
