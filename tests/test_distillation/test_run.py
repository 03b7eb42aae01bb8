"""A run without a Runner: any module, its own losses, and what is left."""
import copy
import logging

import pytest
import torch
from helpers import assert_equal, assert_untouched, copied, pair
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement
from torch import nn

from mmselfkd import ConfigError, DistillHook
from mmselfkd.distillation import ENTRY, DistillationRun
from mmselfkd.distillation.agreement import linear_cka
from mmselfkd.losses import DistillationLoss, kd_loss, nfd_loss
from mmselfkd.teachers import ModelTeacher

SIZE, CLASSES = 16, 5


class Net(nn.Module):
    """Nothing of OpenMMLab: two stages and a classifier."""

    def __init__(self, width, classes=CLASSES):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 2, 1)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.classify = nn.Conv2d(2 * width, classes, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.classify(self.second(self.first(inputs).relu()).relu())
        if mode == 'tensor':
            return scores
        return dict(loss_task=scores.square().mean(), accuracy=scores.sum())


class Distance(nn.Module):
    """A user's own loss."""

    def forward(self, student, teacher):
        return (student - teacher.detach()).abs().mean()


class Scaled(DistillationLoss):
    """One with a parameter; ``calls`` are the levels that each copy saw."""

    channels = 'any'
    calls = []

    def build(self, student, teacher, image):
        self.scale = nn.Parameter(student.new_ones(student.shape[1], 1, 1))

    def forward(self, student, teacher):
        Scaled.calls.append((id(self.scale), tuple(student.shape)))
        return (student * self.scale).square().mean()


class Drawn(DistillationLoss):
    """A random number."""

    channels = 'any'

    def forward(self, student, teacher):
        return 0 * student.sum() + torch.rand(())


class Vain(DistillationLoss):
    """Can teach nothing at small maps."""

    channels = 'any'

    def check(self, student, teacher):
        if student.shape[2] < SIZE // 2:
            raise ValueError('the map is too small')

    def forward(self, student, teacher):
        return student.square().mean()


def teacher_of(model):
    return dict(type=ModelTeacher, model=model)


def inputs():
    return torch.rand(2, 3, SIZE, SIZE)


def begin(student, teacher, losses, iteration=0, **kwargs):
    """A started run in its first iteration."""
    plan = DistillHook(teacher, losses, **kwargs).plan
    run = DistillationRun(student, plan, inputs(), None)
    run.attach()
    run.start()
    run.begin_iteration(iteration)
    return run


def test_values_gradients_and_steps_of_a_bare_module():
    """Against plain forward passes of the same modules."""
    student, teacher = Net(4), Net(6)
    run = begin(student, teacher_of(teacher), dict(
        loss_nfd=dict(type='NFDLoss', source='second', loss_weight=3.),
        loss_own=dict(type=Distance, source='classify')))
    adapter = student.mmselfkd['loss_nfd']['adapters'][0]
    assert (adapter.in_channels, adapter.out_channels) == (8, 12)
    before = copied(student.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    x = inputs()
    losses = student(x, mode='loss')

    maps = student.second(student.first(x).relu())
    theirs = teacher.second(teacher.first(x).relu())
    scores = student.classify(maps.relu())
    expected = {
        'loss_task': scores.square().mean(), 'accuracy': scores.sum(),
        'distill.loss_nfd': 3 * nfd_loss(adapter(maps), theirs),
        'distill.loss_own': (scores - teacher(x)).abs().mean()}
    assert losses.keys() - {'distill.cka'} == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)

    sum(v for k, v in losses.items() if 'loss' in k).backward()
    optimizer.step()
    run.end_iteration({k: float(v) for k, v in losses.items()})
    for name, value in student.state_dict().items():
        assert not torch.equal(value, before[name]), name
    assert all(p.grad is None for p in teacher.parameters())
    assert run.monitor.active == dict(loss_nfd=1, loss_own=1)
    run.close()


@pytest.mark.parametrize('loss, width, value', [
    (dict(type='NFDLoss'), 6, lambda s, t, adapt: nfd_loss(adapt(s), t)),
    (dict(type='NFDLoss'), 4, lambda s, t, adapt: nfd_loss(s, t)),
    (dict(type='FitNetsLoss'), 6,
     lambda s, t, adapt: (adapt(s) - t).square().mean()),
    (dict(type=Distance), 6, lambda s, t, adapt: (adapt(s) - t).abs().mean())])
def test_a_term_trains_the_student_itself(loss, width, value):
    """Its gradient at the student's own weights, not the adapter's alone."""
    student, teacher = Net(4), Net(width)
    run = begin(student, teacher_of(teacher), dict(
        loss_x=dict(loss, source='second')))
    adapt = student.mmselfkd['loss_x']['adapters'][0] if width != 4 else None
    weights = [student.first.weight, student.second.weight]
    x = inputs()
    found = torch.autograd.grad(
        student(x, mode='loss')['distill.loss_x'], weights)
    expected = torch.autograd.grad(value(
        student.second(student.first(x).relu()),
        teacher.second(teacher.first(x).relu()), adapt), weights)
    for got, wanted in zip(found, expected):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(got, wanted)
    run.close()


class Patches(Net):
    """A position of a map sees the pixels of its own cell and no others."""

    def __init__(self, width, classes=CLASSES):
        super().__init__(width, classes)
        self.first = nn.Conv2d(3, width, 2, 2)
        self.second = nn.Conv2d(width, 2 * width, 2, 2)


def padded(size, *shape):
    """An image, and the same in a batch of other numbers; their samples."""
    image, batch = torch.rand(1, 3, *size), 9 * torch.randn(1, 3, *shape)
    batch[:, :, :size[0], :size[1]] = image
    return [(x, [BaseDataElement(metainfo=dict(img_shape=size))])
            for x in (image, batch)]


SCORES = dict(source='classify', activation='softmax')


@pytest.mark.parametrize('loss', [
    dict(SCORES, type='KDLoss', ignore_index=None),
    dict(SCORES, type='DISTLoss'), dict(type='CWDLoss', source='classify'),
    dict(type='NFDLoss', source='second'),
    dict(type='NFDLoss', source=['first', 'second']),
    dict(type='FitNetsLoss', source='second'),
    dict(type='PairwiseLoss', source='first', pool=None),
    dict(type='ATLoss', source=['first', 'second']),
    dict(type='ValueLoss', source=pair('first', 'first')),
    dict(type='CIRKDMiniBatchLoss', source='second'),
    dict(type='TFDIntraLoss', source='second'),
    dict(type='TFDInterLoss', source=['first', 'second'])],
    ids=lambda loss: loss['type'])
def test_a_run_with_padding_is_one_without(loss):
    """A padded image counts as the image alone, whatever is around it."""
    student, teacher = Patches(4), Patches(6)
    if loss['type'] in ('ValueLoss', 'TFDIntraLoss', 'ATLoss'):
        teacher = Patches(4)
    values = []
    for x, samples in padded((12, 8), SIZE, SIZE):
        run = begin(student, teacher_of(teacher), dict(loss_x=loss))
        if hasattr(student, ENTRY):  # the same adapters in both
            for p in student.mmselfkd.parameters():
                nn.init.constant_(p, 0.1)
        values.append(student(x, samples, 'loss')['distill.loss_x'])
        run.close()
    assert values[0] > 0
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)


class Keeps(nn.Module):
    """A user's own loss that takes no weight, and what it was given."""

    seen = []

    def forward(self, student, teacher):
        Keeps.seen.append((student.detach(), teacher.detach()))
        return (student - teacher).abs().mean()


def test_what_takes_no_weight_gets_zeros_in_the_padding():
    """On both sides; a discriminator too, in either of its turns."""
    student, teacher = Patches(4), Patches(4)
    run = begin(student, teacher_of(teacher), dict(
        loss_own=dict(type=Keeps, source='second'),
        loss_ho=dict(type='HolisticLoss', source='classify',
                     conditional=False)))
    looked, Keeps.seen = [], []
    own = run.discriminators['loss_ho'].losses[0].discriminator
    own.norm.register_forward_pre_hook(
        lambda module, args: looked.append(args[0].detach()))
    _, (x, samples) = padded((12, 8), SIZE, SIZE)
    student(x, samples, 'loss')
    run.end_iteration()
    with torch.no_grad():
        levels = [model.second(model.first(x).relu())
                  for model in (student, teacher)]
        scores = [model(x) for model in (student, teacher)]
    for got, level in zip([*Keeps.seen[0], looked[0]], [*levels, scores[0]]):
        torch.testing.assert_close(got[..., :3, :2], level[..., :3, :2])
        assert not got[..., 3:, :].any() and not got[..., 2:].any()
    for got in looked:  # the student's, the teacher's and what lies between
        assert not got[..., 3:, :].any() and not got[..., 2:].any()
    assert any(torch.equal(got[..., :3, :2], scores[1][..., :3, :2])
               for got in looked)
    run.close()


def test_closed_leaves_no_trace():
    """In student, teacher and their values, adapters and all."""
    student, teacher = Net(4), Net(6)
    names, their_names = list(student.state_dict()), list(
        teacher.state_dict())
    plain = student(x := inputs(), mode='loss')
    run = begin(student, teacher_of(teacher), dict(
        loss_nfd=dict(type='NFDLoss', source=['first', 'second']),
        loss_ho=dict(type='HolisticLoss', source='classify',
                     conditional=False)))
    losses = student(x, mode='loss')
    run.end_iteration(losses)
    assert set(losses) > set(plain)
    run.close()
    assert_untouched(student)
    assert_untouched(teacher)
    assert list(student.state_dict()) == names
    assert list(teacher.state_dict()) == their_names
    assert vars(student).keys() == vars(Net(4)).keys()
    assert_equal(student(x, mode='loss'), plain)
    run.close()  # a second time does nothing


def test_only_training_with_a_loss_is_distilled():
    student = Net(4)
    run = begin(student, dict(type='EMATeacher'), dict(
        loss_own=dict(type=Distance, source='second')))
    x = inputs()
    assert 'distill.loss_own' in student(x, None, 'loss')  # by position too
    assert 'distill.loss_own' in student(inputs=x, mode='loss')
    assert isinstance(student(x), torch.Tensor)
    assert isinstance(student(x, mode='tensor'), torch.Tensor)
    student.eval()
    assert set(student(x, mode='loss')) == {'loss_task', 'accuracy'}
    run.close()


@pytest.mark.parametrize('losses, teacher, says', [
    (dict(loss_x=dict(type=Distance, source='third')),
     teacher_of(Net(6)), ["losses.loss_x.source = 'third'", 'Net']),
    (dict(loss_x=dict(type=Distance, source=pair('first', 'third'))),
     teacher_of(Net(6)), ["losses.loss_x.source = 'third'", 'Net']),
    (dict(loss_x=dict(type='KDLoss', source='classify')),
     teacher_of(Net(6)), ['losses.loss_x', 'activation=', 'register_head']),
    (dict(loss_x=dict(type='KDLoss', activation='softmax', source='classify')),
     teacher_of(Net(6, 7)),
     ['losses.loss_x', '5 classes', '7 classes']),
    (dict(loss_x=dict(type=Vain, source=['second', 'classify'])),
     teacher_of(Net(6)), ['losses.loss_x', 'the map is too small']),
    (dict(loss_x=dict(type=Distance, source='first')),
     dict(type=ModelTeacher, model=Net(6), channels=[0, 1]),
     ['DistillHook.teacher.channels', '[0, 1]'])])
def test_what_cannot_work_leaves_no_trace(losses, teacher, says):
    student = Net(4)
    model = teacher['model']
    with pytest.raises(ConfigError) as error:
        begin(student, teacher, losses)
    for part in says:
        assert part in str(error.value)
    assert_untouched(student)
    assert_untouched(model)


class Stop(Exception):
    pass


def fail(*args, **kwargs):
    raise Stop


@pytest.mark.parametrize('where', ['student', 'teacher', 'loss'])
def test_an_exception_in_between_leaves_no_trace(where, monkeypatch):
    """The next forward pass is whole again, and so is the clean-up."""
    student, teacher = Net(4), Net(6)
    run = begin(student, teacher_of(teacher), dict(
        loss_own=dict(type=Distance, source='classify')))
    x = inputs()
    expected = student(x, mode='loss')
    owner = dict(student=student.second, teacher=teacher.second,
                 loss=Distance)[where]
    with monkeypatch.context() as patched:
        patched.setattr(owner, 'forward', fail)
        with pytest.raises(Stop):
            student(x, mode='loss')
    assert_equal(student(x, mode='loss'), expected)
    run.close()
    assert_untouched(student)
    assert_untouched(teacher)


def test_a_loss_with_parameters_has_a_copy_for_each_level():
    student = Net(4)
    Scaled.calls = []
    run = begin(student, dict(type='StudentAsTeacher'), dict(
        loss_scaled=dict(type=Scaled, source=['first', 'second']),
        loss_own=dict(type=Distance, source=pair('first', 'second'))))
    ours = student.mmselfkd['loss_scaled']
    assert [tuple(p.shape) for p in ours.parameters()] == [
        (4, 1, 1), (8, 1, 1)]
    Scaled.calls.clear()
    losses = student(inputs(), mode='loss')
    assert [shape[1] for _, shape in Scaled.calls] == [4, 8]
    assert {scale for scale, _ in Scaled.calls} == {
        id(p) for p in ours.parameters()}
    losses['distill.loss_scaled'].backward()
    assert all(p.grad.any() for p in ours.parameters())
    # a loss without parameters is no module that is trained
    assert set(student.mmselfkd['loss_own']) == {'adapters'}
    run.close()


def test_a_loss_that_is_off_costs_nothing_and_reaches_its_parameters():
    """DDP waits for the gradient of every parameter."""
    student, teacher = Net(4), Net(6)
    ran = []
    teacher.register_forward_pre_hook(lambda *_: ran.append(1))
    run = begin(student, teacher_of(teacher), dict(loss_nfd=dict(
        type='NFDLoss', source='second', schedule=dict(
            type='LinearRamp', begin=2, end=4))))
    ran.clear()
    values = []
    for iteration in range(5):
        run.begin_iteration(iteration)
        losses = student(inputs(), mode='loss')
        losses['distill.loss_nfd'].backward()
        values.append(losses['distill.loss_nfd'].item())
        adapter = student.mmselfkd['loss_nfd']['adapters'][0]
        assert adapter.weight.grad is not None
        assert bool(adapter.weight.grad.any()) == (iteration > 2)
    assert values[:3] == [0, 0, 0] and values[3] > 0 and values[4] > 0
    assert len(ran) == 2
    run.close()


def test_the_task_schedule_scales_losses_alone():
    """Also those that are a list, one tensor a level; no statistics."""

    class Levels(Net):

        def forward(self, inputs, data_samples=None, mode='tensor'):
            losses = super().forward(inputs, data_samples, mode)
            return dict(losses, loss_box=[torch.ones(()), torch.ones(())])

    student = Levels(4)
    plain = student(x := inputs(), mode='loss')
    teacher = teacher_of(Net(4))
    ours = dict(loss_own=dict(type=Distance, source='second'))
    run = begin(student, teacher, ours)
    unscaled = student(x, mode='loss')['distill.loss_own']
    run.close()
    run = begin(student, teacher, ours, task_schedule=dict(
        type='LinearRamp', start_factor=0.25, end=4))
    losses = student(x, mode='loss')
    assert losses['distill.loss_own'] == unscaled > 0
    assert losses['loss_box'] == [0.25, 0.25]
    torch.testing.assert_close(losses['loss_task'], plain['loss_task'] / 4)
    torch.testing.assert_close(losses['accuracy'], plain['accuracy'])
    run.close()


def test_a_discriminator_has_its_turn_after_the_step():
    student, teacher = Net(4), Net(6)
    run = begin(student, teacher_of(teacher), dict(loss_ho=dict(
        type='HolisticLoss', source='classify', conditional=False,
        optimizer=dict(type='SGD', lr=0.1))))
    module = run.discriminators['loss_ho'].losses[0].discriminator
    assert not any(p is q for p in module.parameters()
                   for q in student.parameters())
    before = copied(module.state_dict())
    student(inputs(), mode='loss')['distill.loss_ho'].backward()
    assert all(p.grad is None for p in module.parameters())
    assert_equal(copied(module.state_dict()), before)
    run.end_iteration()
    weight = 'score.weight'
    assert not torch.equal(module.state_dict()[weight], before[weight])
    # nothing was seen since
    before = copied(module.state_dict())
    run.end_iteration()
    assert_equal(copied(module.state_dict()), before)
    run.close()


def test_an_average_follows_the_students_steps():
    student = Net(4)
    run = begin(student, dict(type='EMATeacher', momentum=0.5), dict(
        loss_own=dict(type=Distance, source='classify')))
    start = copied(student.state_dict())
    assert student(x := inputs(), mode='loss')['distill.loss_own'] == 0
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.)
    run.end_iteration()
    losses = student(x, mode='loss')
    assert losses['distill.loss_own'] > 0
    average = Net(4)
    average.load_state_dict({k: v + 0.5 for k, v in start.items()})
    torch.testing.assert_close(
        losses['distill.loss_own'], (student(x) - average(x)).abs().mean())
    run.close()


@pytest.mark.parametrize('reading, expected', [
    (dict(activation='softmax'),
     lambda s, t: kd_loss(s, t, ignore_index=None)),
    (dict(activation='sigmoid'),
     lambda s, t: kd_loss(s, t, ignore_index=None, activation='sigmoid')),
    (dict(activation='softmax', classes=2), lambda s, t: kd_loss(
        *(x.unflatten(1, (3, 2)).flatten(0, 1) for x in (s, t)),
        ignore_index=None))])
def test_class_scores_of_a_module_that_nobody_knows(reading, expected):
    """The user says how they are read, and how many anchors there are."""
    student, teacher = Net(4, 6), Net(6, 6)
    run = begin(student, teacher_of(teacher), dict(loss_kd=dict(
        type='KDLoss', source='classify', ignore_index=None, **reading)))
    x = inputs()
    torch.testing.assert_close(
        student(x, mode='loss')['distill.loss_kd'],
        expected(student(x), teacher(x)))
    run.close()


def test_a_level_that_teaches_nothing_is_named():
    """One of several; where all of them do, it is an error (above)."""
    told = []

    class Keep(logging.Handler):

        def emit(self, record):
            told.append(record.getMessage())

    MMLogger.get_instance(f'run{id(told)}').addHandler(Keep())
    student = Net(4)
    run = begin(student, teacher_of(Net(6)), dict(
        loss_x=dict(type=Vain, source=['first', 'second'])))
    text, = (text for text in told if 'loss_x' in text)
    assert 'level 1 (0 to 1)' in text and 'the map is too small' in text
    assert student(inputs(), mode='loss')['distill.loss_x'] > 0
    run.close()


@pytest.mark.parametrize('value, says', [
    (torch.rand(2), r'a tensor of shape \(2,\)'), (1., 'a float'),
    ({}, 'a dict'), (None, 'a NoneType')])
def test_a_value_that_is_no_scalar(monkeypatch, value, says):
    monkeypatch.setattr(Distance, 'forward', lambda self, s, t: value)
    with pytest.raises(ConfigError, match=(
            f'losses.loss_x: Distance returned {says}')):
        begin(Net(4), teacher_of(Net(6)), dict(
            loss_x=dict(type=Distance, source='second')))


def test_a_tensor_of_one_number_is_a_scalar(monkeypatch):
    monkeypatch.setattr(
        Distance, 'forward', lambda self, s, t: s.mean().view(1, 1))
    student = Net(4)
    run = begin(student, teacher_of(Net(6)), dict(
        loss_x=dict(type=Distance, source='classify')))
    assert student(inputs(), mode='loss')['distill.loss_x'].shape == ()
    run.close()


@pytest.mark.parametrize('where', ['forward', 'build', 'check'])
def test_a_loss_that_fails_before_training_is_named(monkeypatch, where):
    """Whatever it raises."""
    def bang(*args, **kwargs):
        raise ZeroDivisionError('of one pixel')

    monkeypatch.setattr(Scaled, where, bang)
    student = Net(4)
    with pytest.raises(ConfigError, match=(
            'DistillHook.losses.loss_x: ZeroDivisionError: of one pixel')):
        begin(student, teacher_of(Net(6)), dict(
            loss_x=dict(type=Scaled, source='second')))
    assert_untouched(student)


def test_a_second_run_on_the_same_student():
    """It finds nothing of the first one."""
    student, teacher = Net(4), Net(6)
    losses = dict(loss_own=dict(type=Distance, source='classify'))
    x, seen = inputs(), []
    for _ in range(2):
        run = begin(student, teacher_of(teacher), copy.deepcopy(losses))
        seen.append(student(x, mode='loss'))
        run.close()
    assert_equal(*seen)


def test_nothing_is_attached_where_nothing_is_trained():
    student = Net(4)
    run = begin(student, teacher_of(Net(6)), dict(
        loss_own=dict(type=Distance, source='classify')))
    assert not hasattr(student, ENTRY)
    assert list(student.state_dict()) == list(Net(4).state_dict())
    run.close()


def test_draws_follow_from_seed_rank_iteration_and_name(monkeypatch):
    student = Net(4)
    run = begin(student, teacher_of(Net(4)), {
        name: dict(type=Drawn, source='first')
        for name in ('loss_a', 'loss_b')})

    def drawn(iteration=0, rank=0, seed=0):
        monkeypatch.setattr(
            'mmselfkd.distillation.run.get_rank', lambda: rank)
        run.seed = seed
        run.begin_iteration(iteration)
        losses = student(inputs(), mode='loss')  # draws the inputs as well
        return [losses[f'distill.loss_{name}'].item() for name in 'ab']

    first = drawn()
    assert drawn() == first
    numbers = {*first, *drawn(iteration=1), *drawn(rank=1), *drawn(seed=1)}
    assert len(numbers) == 8
    run.close()


def test_the_logged_similarity_is_of_the_first_features():
    student, teacher, seen = Net(4), Net(4), {}
    for name, net in dict(student=student, teacher=teacher).items():
        net.second.register_forward_hook(
            lambda module, args, out, name=name: seen.update(
                {name: out.detach()}))
    run = begin(student, teacher_of(teacher), dict(
        loss_b=dict(type='NFDLoss', source='second'),
        loss_a=dict(type='NFDLoss', source='first')))
    losses = student(inputs(), mode='loss')
    run.close()
    assert losses['distill.cka'] == linear_cka(**seen) < 0.999


def test_what_the_log_says_of_it():
    student = Net(4)
    run = begin(student, teacher_of(Net(6)), dict(loss_nfd=dict(
        type='NFDLoss', source='second', loss_weight=3.,
        schedule=dict(type='LinearRamp', end=4))))
    table, teacher, count = run.describe()
    for part in ('distill.loss_nfd', 'NFDLoss', 'second: 8x4x4',
                 'second: 12x4x4', '8->12', '3 LinearRamp'):
        assert part in table
    number = sum(p.numel() for p in Net(6).parameters())
    assert teacher.startswith('teacher: ') and f'{number:,}' in teacher
    assert f'{8 * 12 + 12} in adapters' in count
    run.close()
