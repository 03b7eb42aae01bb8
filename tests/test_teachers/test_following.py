"""Teachers that are the student at another time: average and snapshot."""
import copy
from contextlib import ExitStack

import pytest
import torch
from helpers import assert_equal, assert_untouched
from torch import nn

from mmselfkd import ConfigError, EMATeacher, SnapshotTeacher
from mmselfkd.teachers import BatchContext


class Student(nn.Module):
    """Takes mode='tensor' like a model of OpenMMLab."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, inputs, samples=None, mode='tensor'):
        return self.norm(self.conv(inputs))


def ready(teacher, resources=None):
    """Its student, and a batch that it has seen."""
    student = Student()
    context = BatchContext(student, torch.rand(2, 3, 4, 4), None)
    teacher.request('norm', 'key', student)
    teacher.fit(context, resources or ExitStack())
    teacher.rehearse(context)
    return student, context


def move(student):
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.rand_like(p))
        student.norm.running_mean.add_(1.)


def weights(module):
    return {k: v.detach().double().clone()
            for k, v in module.named_parameters()}


@pytest.mark.parametrize('begin, interval', [(0, 1), (0, 3), (2, 1), (3, 2)])
def test_average_by_its_definition(begin, interval):
    teacher = EMATeacher(momentum=0.25, begin=begin, interval=interval)
    student, _ = ready(teacher)
    teacher.start(student)
    expected = weights(student) if begin == 0 else None
    assert teacher.is_ready == (begin == 0)
    updates = 1 if begin == 0 else 0  # the start is the first of them
    for iteration in range(1, 9):
        move(student)
        teacher.follow(student, iteration, 4)
        if iteration >= begin:
            now = weights(student)
            if expected is None:
                expected = now
            elif updates % interval == 0:
                expected = {k: 0.75 * v + 0.25 * now[k]
                            for k, v in expected.items()}
            updates += 1
        assert teacher.is_ready == (expected is not None)
        if expected is not None:
            for name, value in weights(teacher.model).items():
                torch.testing.assert_close(
                    value, expected[name], rtol=1e-5, atol=1e-6)
    assert torch.equal(teacher.model.norm.running_mean,
                       student.norm.running_mean)


@pytest.mark.parametrize('by_epoch, length', [(False, 3), (True, 6)])
def test_snapshot_is_the_student_of_the_last_time(by_epoch, length):
    teacher = SnapshotTeacher(interval=3, by_epoch=by_epoch)
    student, _ = ready(teacher)
    teacher.start(student)
    taken = None
    for iteration in range(1, 15):
        move(student)
        teacher.follow(student, iteration, 2)
        if iteration % length == 0:
            taken = copy.deepcopy(student.state_dict())
        assert teacher.is_ready == (taken is not None)
        if taken is not None:
            assert_equal(dict(teacher.model.state_dict()), dict(taken))


@pytest.mark.parametrize('make', [
    lambda: EMATeacher(momentum=0.25), lambda: SnapshotTeacher(interval=2)])
def test_state_goes_on_where_it_was(make):
    first, second = make(), make()
    student, context = ready(first)
    ready(second)
    first.start(student)
    for iteration in range(1, 4):
        move(student)
        first.follow(student, iteration, 1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.start(student)  # must not begin anew
    for iteration in range(4, 7):
        assert_equal(first.model.state_dict(), second.model.state_dict())
        move(student)
        first.follow(student, iteration, 1)
        second.follow(student, iteration, 1)
    assert torch.equal(first.teach(context, ['norm']).levels['norm'][0],
                       second.teach(context, ['norm']).levels['norm'][0])


@pytest.mark.parametrize('make', [EMATeacher,
                                  lambda: SnapshotTeacher(interval=1)])
def test_it_only_teaches(make):
    teacher, resources = make(), ExitStack()
    student, context = ready(teacher, resources)
    student.train()
    teacher.start(student)
    taught, = teacher.teach(context, ['norm']).levels['norm']
    assert not taught.requires_grad
    assert not any(m.training for m in teacher.model.modules())
    assert not {id(p) for p in teacher.model.parameters()} & {
        id(p) for p in student.parameters()}
    assert all(p.requires_grad for p in student.parameters())
    assert teacher.module is None
    resources.close()
    assert_untouched(teacher.model)


@pytest.mark.parametrize('momentum, says', [
    (0.999, 'a decay of 0.999 is momentum=0.001'), (1.0, 'at most 0.5'),
    (0, 'above 0'), (-0.1, 'above 0'), ('0.1', "'0.1'"),
    (float('nan'), 'nan')])
def test_momentum_is_the_share_of_the_new_weights(momentum, says):
    with pytest.raises(ConfigError, match='NFDHook.teacher.momentum') as error:
        EMATeacher(momentum=momentum, key='NFDHook.teacher')
    assert says in str(error.value)


@pytest.mark.parametrize('make, says', [
    (lambda: EMATeacher(begin=-1), ['teacher.begin', '-1', '0 or more']),
    (lambda: EMATeacher(interval=0), ['teacher.interval', 'got 0', '1 or']),
    (lambda: EMATeacher(interval=1.5), ['teacher.interval', '1.5']),
    (lambda: SnapshotTeacher(interval=0), ['teacher.interval', 'got 0']),
    (lambda: SnapshotTeacher(interval=True), ['teacher.interval', 'True']),
    (lambda: SnapshotTeacher(interval=1, by_epoch='yes'),
     ['teacher.by_epoch', "'yes'"])])
def test_counts_out_of_range(make, says):
    with pytest.raises(ValueError) as error:
        make()
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize('make, length, key', [
    (lambda: EMATeacher(begin=4), (4, 2), 'begin = 4'),
    (lambda: SnapshotTeacher(interval=4), (4, 2), 'interval = 4'),
    (lambda: SnapshotTeacher(interval=2, by_epoch=True), (4, 2),
     'interval = 2')])
def test_a_teacher_that_begins_after_the_end(make, length, key):
    teacher = make()
    with pytest.raises(ConfigError, match=f'teacher.{key}: the run has'):
        teacher.check_length(*length)
    teacher.check_length(length[0] + 1, length[1] + 1)
    teacher.check_length(None, None)  # a run of unknown length
