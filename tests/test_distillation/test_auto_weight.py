"""A weight that follows from the share of the gradient."""
import math

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmselfkd import ConfigError, DistillHook
from mmselfkd.distillation import DistillationRun, auto_weight
from mmselfkd.teachers import ModelTeacher


class Net(nn.Module):

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 2, 1)
        self.second = nn.Conv2d(width, width, 3, 2, 1)
        self.classify = nn.Conv2d(width, 5, 1)
        self.way = lambda part, x: part(x)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.scores(self.maps(inputs)[1])
        return scores if mode == 'tensor' else self.task(scores)

    def maps(self, x):
        first = self.first(x)
        return first, self.second(first.relu())

    def scores(self, second):
        return self.way(self.classify, second.relu())

    def task(self, scores):
        return dict(loss_a=scores.square().mean(), loss_b=scores.exp().mean())


class Distance(nn.Module):
    """The distance, times a factor."""
    channels = 'any'

    def __init__(self, factor=1.):
        super().__init__()
        self.factor = factor

    def forward(self, student, teacher):
        return self.factor * (student - teacher.detach()).abs().mean()


class Later(Distance):
    """The gradient alone is spoilt, while ``is_spoilt``: times ``how``."""

    how, is_spoilt = 0., True

    def forward(self, student, teacher):
        if student.requires_grad and self.is_spoilt:
            how, student = self.how, student * 1
            student.register_hook(lambda gradient: gradient * how)
        return super().forward(student, teacher)


def auto(source, share=0.3, **options):
    return dict(dict(type=Distance, source=source, loss_weight='auto',
                     share=share), **options)


def start(losses, **options):
    torch.manual_seed(0)
    student, teacher = Net(), Net()
    plan = DistillHook(dict(type=ModelTeacher, model=teacher), losses,
                       **options).plan
    plan.resolve(100, 10)
    run = DistillationRun(student, plan, images(0), None)
    run.start()
    return student, teacher, run


def images(seed):
    return torch.randn(4, 3, 16, 16,
                       generator=torch.Generator().manual_seed(seed))


def train(run, iterations, rate=0.05):
    """Plain SGD; the weights that were logged."""
    student, logged = run.student, []
    for i in iterations:
        run.begin_iteration(i)
        losses = student(images(i), mode='loss')
        student.zero_grad()
        sum(losses.values()).backward()
        with torch.no_grad():
            for p in student.parameters():
                p -= rate * p.grad
        run.end_iteration({k: float(v.detach()) for k, v in losses.items()})
        logged.append(run.measured)
    return logged


def shares(student, teacher, x, weights, others=()):
    """By autograd.grad on leaf tensors, at each of the three places.

    ``weights``: what the distance at a place is multiplied by.
    """
    def distance(name, ours):
        theirs = dict(zip(('first', 'second'), teacher.maps(x)))
        theirs['classify'] = teacher.scores(theirs['second'])
        return weights[name] * (ours - theirs[name]).abs().mean()

    first, second = (m.detach().requires_grad_() for m in student.maps(x))
    scores = student.scores(second.detach()).detach().requires_grad_()
    found = {}
    for at, leaf in (('first', first), ('second', second),
                     ('classify', scores)):
        maps = dict(first=first, second=second, classify=scores)
        if at == 'first':
            maps['second'] = student.second(first.relu())
        if at != 'classify':
            maps['classify'] = student.scores(maps['second'])
        parts = [sum(student.task(maps['classify']).values())]
        parts += [distance(name, maps[name]) for name in weights]
        norms = [0. if g is None else float(g.norm()) for g in (
            torch.autograd.grad(part, leaf, retain_graph=True,
                                allow_unused=True)[0] for part in parts)]
        if at in weights:
            found[at] = norms[1 + list(weights).index(at)] / sum(norms)
    return found


def test_the_first_step_has_the_shares_that_were_asked_for():
    """Of two that depend on each other, beside one whose weight is given."""
    student, teacher, run = start(dict(
        loss_a=auto('second', 0.4), loss_b=auto('classify', 0.2),
        loss_c=dict(type=Distance, source='first', loss_weight=7.,
                    schedule=dict(type='LinearRamp', end=4))))
    run.begin_iteration(2)
    losses = student(images(2), mode='loss')
    logged = run.measured
    assert set(logged) == {'distill.weight.loss_a', 'distill.weight.loss_b'}
    weights = dict(first=3.5, second=logged['distill.weight.loss_a'],
                   classify=logged['distill.weight.loss_b'])
    found = shares(student, teacher, images(2), weights)
    assert found['second'] == pytest.approx(0.4, rel=1e-5)
    assert found['classify'] == pytest.approx(0.2, rel=1e-5)
    second, theirs = (net.maps(images(2))[1] for net in (student, teacher))
    assert float(losses['distill.loss_a'].detach()) == pytest.approx(float(
        weights['second'] * (second - theirs).abs().mean()), rel=1e-5)
    run.close()


def test_a_schedule_and_one_of_the_task_come_on_top():
    """The others count with theirs."""
    half, quarter = (dict(type='LinearRamp', end=end) for end in (4, 8))
    student, teacher, run = start(
        dict(loss_a=auto('second', 0.4, schedule=half),
             loss_b=auto('classify', 0.2, schedule=quarter)),
        task_schedule=dict(type='LinearRamp', end=8))
    run.begin_iteration(2)
    losses = student(images(2), mode='loss')
    weight, other = (
        run.measured[f'distill.weight.loss_{k}'] for k in 'ab')
    for scales, place, share in (((4, 1), 'second', 0.4),
                                 ((2, 4), 'classify', 0.2)):
        found = shares(student, teacher, images(2), dict(
            second=scales[0] * weight, classify=scales[1] * other))
        assert found[place] == pytest.approx(share, rel=1e-5)
    second, theirs = (net.maps(images(2))[1] for net in (student, teacher))
    assert float(losses['distill.loss_a'].detach()) == pytest.approx(float(
        weight / 2 * (second - theirs).abs().mean()), rel=1e-5)
    run.close()


def test_in_training_the_mean_share_is_what_was_asked_for(monkeypatch):
    """Over other batches than those that it was measured on."""
    monkeypatch.setattr(auto_weight, 'INTERVAL', 2)
    student, teacher, run = start(dict(
        loss_a=auto('second', 0.3), loss_b=auto('second', 0.2)))
    train(run, range(40))
    train(run, range(40, 100), rate=0.)  # the means have lost their start
    found = []
    for i in range(100, 120):
        logged, = train(run, [i], rate=0.)
        weights = [logged[f'distill.weight.loss_{k}'] for k in 'ab']
        assert weights[0] / weights[1] == pytest.approx(1.5)
        both = shares(student, teacher, images(100 + i),
                      dict(second=sum(weights)))
        found.append(both['second'])
    assert sum(found) / len(found) == pytest.approx(0.5, abs=0.02)
    run.close()


def test_only_every_so_many_iterations_and_as_a_running_mean(monkeypatch):
    """One measurement in INTERVAL; the newest counts a tenth at least."""
    calls = []
    measure = auto_weight.gradient_norms
    monkeypatch.setattr(auto_weight, 'gradient_norms', lambda *args: (
        calls.append(1), measure(*args))[1])
    _, _, run = start(dict(loss_a=auto('second')))
    logged = [values['distill.weight.loss_a']
              for values in train(run, range(45))]
    assert len(calls) == 3
    assert len(set(logged)) == 3
    assert len({*logged[:20]}) == len({*logged[20:40]}) == 1
    text = list(run.conclude())[1]
    for part in (f'{logged[0]:.4g}', f'{logged[-1]:.4g}', '0.3'):
        assert part in text
    term = run.auto.terms['loss_a']
    for _ in range(40):
        term.add({'': 0.})
    before = term.norm('')
    term.add({'': 1.})
    assert term.norm('') == pytest.approx(0.9 * before + 0.1)
    run.close()


@pytest.mark.parametrize('factor', [1024., 1000., 1e-6])
def test_the_scale_of_a_loss_changes_nothing(factor):
    """Bit for bit for a power of two; what float32 rounds else."""
    weights, steps = [], []
    for scale in (1., factor):
        student, _, run = start(dict(
            loss_a=auto('second', factor=scale),
            loss_b=dict(type=Distance, source='classify')))
        logged = train(run, range(25))
        weights.append(logged[-1]['distill.weight.loss_a'])
        steps.append([p.detach().clone() for p in student.parameters()])
        run.close()
    assert weights[0] == pytest.approx(factor * weights[1], rel=1e-5)
    for one, other in zip(*steps):
        if factor == 1024:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('how', [0., math.nan, math.inf])
def test_without_a_gradient_it_is_as_large_as_the_task(how):
    """Until the first one; from then on that does not count."""
    student, teacher, run = start(dict(loss_a=auto('second', type=Later)))
    loss = run.terms[0].loss.module
    loss.how = how
    run.begin_iteration(0)
    losses = {key: float(value.detach()) for key, value in student(
        images(0), mode='loss').items()}
    assert losses['distill.loss_a'] == pytest.approx(
        losses['loss_a'] + losses['loss_b'], rel=1e-5)
    loss.is_spoilt = False
    logged, = train(run, [1], rate=0.)  # not one that is measured else
    weight = logged['distill.weight.loss_a']
    found = shares(student, teacher, images(1), dict(second=weight))
    assert found['second'] == pytest.approx(0.3, rel=1e-5)
    loss.is_spoilt = True
    run.begin_iteration(20)
    student(images(20), mode='loss')
    assert run.measured['distill.weight.loss_a'] == weight
    run.close()


def test_a_loss_that_starts_later_is_measured_then():
    """And is no part of what others are compared with before."""
    student, teacher, run = start(dict(
        loss_a=auto('second', 0.3),
        loss_late=auto('first', 0.3, schedule=dict(
            type='Step', milestones=[3], gamma=1.))))
    late = run.terms[1].config
    late.schedule.factor = lambda t: float(t >= 3)
    logged = train(run, range(5), rate=0.)
    assert [set(values) for values in logged] == [
        {'distill.weight.loss_a'}] * 3 + [
        {'distill.weight.loss_a', 'distill.weight.loss_late'}] * 2
    found = shares(student, teacher, images(3), dict(
        second=logged[3]['distill.weight.loss_a'],
        first=logged[3]['distill.weight.loss_late']))
    assert found['first'] == pytest.approx(0.3, rel=1e-5)
    run.close()


def test_shares_that_cannot_be_had_together_are_a_warning(monkeypatch):
    """The same place under two names, so no rule sees it before."""
    class Renamed(Net):
        def __init__(self):
            super().__init__()
            self.second = nn.Sequential(self.second)

    torch.manual_seed(0)
    student, teacher = Renamed(), Renamed()
    plan = DistillHook(dict(type=ModelTeacher, model=teacher), dict(
        loss_a=auto('second', 0.6), loss_b=auto('second.0', 0.6))).plan
    run = DistillationRun(student, plan, images(0), None)
    run.start()
    texts = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(), 'warning', texts.append)
    logged = train(run, range(22))
    text, = (text for text in texts if 'no weights give' in text)
    for part in ("losses.loss_a.loss_weight = 'auto' with share = 0.6",
                 'losses.loss_b', 'lower them'):
        assert part in text
    assert all(value > 0 for values in logged for value in values.values())
    run.close()


def test_without_a_task_the_weight_stays_without_a_warning(monkeypatch):
    """A schedule that ends at 0."""
    _, _, run = start(dict(loss_a=auto('second')), task_schedule=dict(
        type='LinearRamp', begin=0, end=4, start_factor=1, end_factor=0))
    texts = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(), 'warning', texts.append)
    monkeypatch.setattr(auto_weight, 'INTERVAL', 1)
    logged = [values['distill.weight.loss_a'] for values in train(
        run, range(7))]
    assert logged[0] > logged[2] > logged[3] > 0
    assert logged[4:] == logged[3:4] * 3
    assert not any('no weights give' in text for text in texts)
    run.close()


def test_what_the_task_does_not_reach_is_refused():
    """Before training: frozen there, or no part of it."""
    class Beside(Net):
        def __init__(self):
            super().__init__()
            self.beside = nn.Conv2d(3, 2, 1)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            self.beside(inputs)
            return super().forward(inputs, data_samples, mode)

    for source, frozen in (('beside', ()), ('first', ('first', ))):
        student = Beside()
        for name in frozen:
            student.get_submodule(name).requires_grad_(False)
        plan = DistillHook(dict(type=ModelTeacher, model=Beside()),
                           dict(loss_a=auto(source))).plan
        with pytest.raises(ConfigError) as error:
            DistillationRun(student, plan, images(0), None)
        for part in ("losses.loss_a.loss_weight = 'auto'", 'no gradient',
                     f"'{source}'", 'give a number'):
            assert part in str(error.value)


def test_checkpointing_behind_the_tap_is_refused(monkeypatch):
    build = Net.__init__

    def init(self):
        build(self)
        self.way = lambda part, x: checkpoint(part, x, use_reentrant=False)

    monkeypatch.setattr(Net, '__init__', init)
    with pytest.raises(ConfigError) as error:
        start(dict(loss_a=auto('second')))
    for part in ("losses.loss_a.loss_weight = 'auto'", 'with_cp'):
        assert part in str(error.value)


NUMBER = dict(type=Distance, source='second')


@pytest.mark.parametrize('loss, says', [
    (dict(NUMBER, loss_weight='atuo'),
     ["losses.loss_a.loss_weight = 'atuo'", "nearest: 'auto'"]),
    (dict(NUMBER, loss_weight='3'),
     ["losses.loss_a.loss_weight = '3'", 'a number', "'auto'"]),
    *((auto('second', share),
       [f'losses.loss_a.share = {share!r}', 'between 0 and 1'])
      for share in (0, 1, -0.1, 1.5, True, '0.3', math.nan, [0.3])),
    (dict(NUMBER, share=0.3),
     ['losses.loss_a.share = 0.3', "loss_weight = 'auto'", '1.0']),
    (dict(NUMBER, loss_weight=2, share=0.3),
     ['losses.loss_a.share = 0.3', "loss_weight = 'auto'", 'that is 2']),
    (dict(type='NFDLoss', source='second', weight='auto'),
     ["losses.loss_a.weight = 'auto'", "nearest: 'loss_weight'"])])
def test_what_it_cannot_be(loss, says):
    with pytest.raises(ConfigError) as error:
        DistillHook(dict(type='EMATeacher'), dict(loss_a=loss))
    for part in says:
        assert part in str(error.value)


def test_shares_at_one_place_leave_something_to_the_task():
    with pytest.raises(ConfigError) as error:
        start(dict(loss_a=auto('second', 0.5), loss_c=auto('second', 0.5),
                   loss_b=auto('classify', 0.3)))
    assert 'losses.loss_a.share = 0.5, ' in str(error.value)
    assert 'loss_b' not in str(error.value)
    assert 'below 1' in str(error.value)


def test_the_default_share():
    plan = DistillHook(dict(type='EMATeacher'), dict(
        loss_a=dict(NUMBER, loss_weight='auto'))).plan
    assert plan.losses[0].share == 0.3
