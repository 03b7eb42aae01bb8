"""The share of each loss in the gradient, and what follows from it."""
import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint

from mmselfkd import ConfigError, DistillHook
from mmselfkd.distillation import DistillationRun
from mmselfkd.distillation.diagnosis import Diagnosis, gradient_shares
from mmselfkd.losses import nfd_loss
from mmselfkd.teachers import ModelTeacher

NFD, WEIGHT = dict(type='NFDLoss', loss_weight=3.), 3.


class Net(nn.Module):
    """Two stages and a classifier of tokens.

    ``second`` is changed in place behind it; ``tokens`` gives (N, L, C);
    ``pair`` gives two maps, of which the second goes on.
    """

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 2, 1)
        self.second = nn.Conv2d(width, width, 3, 2, 1)
        self.tokens = nn.LayerNorm(width)
        self.pair = Pair()
        self.classify = nn.Linear(width, 5)
        self.way = lambda part, x: part(x)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.rest(self.upto(inputs), mode)

    def upto(self, inputs):
        return self.second(self.first(inputs).relu())

    def rest(self, maps, mode='loss'):
        maps = maps + 0 if mode == 'by hand' else maps
        maps = torch.nn.functional.relu(maps, inplace=True)
        tokens = self.way(self.tokens, maps.flatten(2).transpose(1, 2))
        return self.scores(tokens, mode)

    def scores(self, tokens, mode='loss'):
        tokens = self.pair(tokens)[1]
        scores = self.classify(tokens)
        if mode == 'tensor':
            return scores
        return dict(loss_a=scores.square().mean(),
                    loss_b=[scores.exp().mean(), scores.sin()],
                    accuracy=scores.sum())


class Pair(nn.Module):

    def forward(self, x):
        return x.square(), x * 2


class Distance(nn.Module):
    channels = 'any'

    def forward(self, student, teacher):
        return (student - teacher.detach()).abs().mean()


def total(losses):
    first, second = losses['loss_b']
    return losses['loss_a'] + first + second.mean()


def of_scores(scores):
    return scores.square().mean() + scores.exp().mean() + scores.sin().mean()


def step(losses, width=4, **changes):
    """A step of a distilled Net, and what it measured."""
    torch.manual_seed(0)
    student, teacher = Net(4), Net(width)
    plan = DistillHook(
        dict(type=ModelTeacher, model=teacher), losses,
        diagnose=dict(interval=2), **changes).plan
    x = torch.randn(2, 3, 16, 16)
    run = DistillationRun(student, plan, x, None)
    run.attach()
    run.start()
    run.begin_iteration(2)
    result = student(x, mode='loss')
    measured = dict(run.measured)
    run.end_iteration({k: 0. for k in result})
    return student, teacher, x, run, result, measured


def expected(at, task, terms):
    """By the definition, of leaf tensors ``at``."""
    def gradient(value):
        found = torch.autograd.grad(value, at, retain_graph=True)
        return torch.cat([g.flatten() for g in found]).double()

    of_task, *others = map(gradient, [task, *terms])
    norms = [g.norm() for g in (of_task, *others)]
    own = others[0]
    return (float(own.norm() / sum(norms)),
            float(own @ of_task / own.norm() / of_task.norm()))


def check(measured, name, values):
    assert measured[f'distill.share.{name}'] == pytest.approx(
        values[0], rel=1e-4)
    assert measured[f'distill.cosine.{name}'] == pytest.approx(
        values[1], rel=1e-4)


def test_behind_an_adapter_and_before_what_is_changed_in_place():
    """The other loss comes through what lies between."""
    student, teacher, x, run, _, measured = step(dict(
        loss_nfd=dict(NFD, source='second'),
        loss_own=dict(type=Distance, source='classify',
                      loss_weight=2.)), width=6,
        task_schedule=dict(type='LinearRamp', end=4))
    assert run._task_factor == 0.5
    maps = student.upto(x).detach().requires_grad_()
    adapter = student.mmselfkd['loss_nfd']['adapters'][0]
    term = WEIGHT * nfd_loss(adapter(maps), teacher.upto(x))
    tokens = student.tokens((maps + 0).relu().flatten(2).transpose(1, 2))
    scores = student.classify(student.pair(tokens)[1])
    other = 2 * (scores - teacher(x)).abs().mean()
    task = total(student.rest(maps, 'by hand')) / 2
    check(measured, 'loss_nfd', expected([maps], task, [term, other]))
    # at the scores only those two look
    scores = scores.detach().requires_grad_()
    task = of_scores(scores) / 2
    other = 2 * (scores - teacher(x)).abs().mean()
    check(measured, 'loss_own', expected([scores], task, [other]))
    run.close()


@pytest.mark.parametrize('source', ['tokens', 'pair[1]'])
def test_of_tokens_and_of_one_of_several_outputs(source):
    """A level is a view of what the module gave, or beside the path."""
    student, teacher, x, run, _, measured = step(dict(
        loss_own=dict(type=Distance, source=source)))
    tokens, theirs = (net.tokens(net.upto(x).relu().flatten(2).transpose(1, 2))
                      for net in (student, teacher))
    at = tokens.detach().requires_grad_()
    task = total(student.scores(at))
    if source == 'pair[1]':
        at = student.pair(tokens)[1].detach().requires_grad_()
        theirs = teacher.pair(theirs)[1]
        task = of_scores(student.classify(at))
    term = (at - theirs).abs().mean()
    check(measured, 'loss_own', expected([at], task, [term]))
    run.close()


def test_against_finite_differences():
    """Of a sum of losses whose gradients are known to a few digits."""
    torch.manual_seed(1)
    at = torch.randn(6, dtype=torch.float64, requires_grad=True)
    middle = at * 1
    functions = [lambda x: x.sin().sum(), lambda x: 3 * x.square().mean()]
    shares, cosines = gradient_shares(
        functions[0](middle), dict(loss_x=functions[1](middle)),
        dict(loss_x=[get_gradient_edge(middle)]))
    steps = 1e-6 * torch.eye(6, dtype=torch.float64)
    task, term = (
        torch.stack([function(at + step) - function(at - step)
                     for step in steps]).detach() for function in functions)
    share = term.norm() / (term.norm() + task.norm())
    assert shares['loss_x'] == pytest.approx(float(share), rel=1e-5)
    assert cosines['loss_x'] == pytest.approx(float(
        term @ task / term.norm() / task.norm()), rel=1e-5)


def test_half_precision_with_the_scale_of_the_step():
    """Without it these gradients are 0 in float16."""
    leaf = torch.ones(8, requires_grad=True)
    level = (leaf * 2).half()
    task, term = (level.float() ** k * 1e-9 for k in (1, 2))
    edges = dict(loss_x=[get_gradient_edge(level)])
    losses = task.sum(), dict(loss_x=term.sum())
    shares, cosines = gradient_shares(*losses, edges, 2.**16)
    assert shares['loss_x'] == pytest.approx(4 / 5, rel=1e-2)
    assert cosines['loss_x'] == pytest.approx(1, rel=1e-2)
    assert gradient_shares(*losses, edges) == ({}, {})
    assert gradient_shares(*losses, edges, 2.**60) == ({}, {})  # overflow
    assert leaf.grad is None


def test_only_in_its_iterations_and_no_parameter_has_a_gradient():
    student, _, x, run, _, measured = step(
        dict(loss_own=dict(type=Distance, source='tokens')))
    assert set(measured) == {'distill.share.loss_own',
                             'distill.cosine.loss_own'}
    assert all(p.grad is None for p in student.parameters())
    run.begin_iteration(3)
    result = student(x, mode='loss')
    assert run.measured == {}
    total(result).backward()  # the graph is whole
    run.close()
    assert all(tap._edges == [] for tap in run._taps.values())


@pytest.mark.parametrize('is_reentrant', [True, False])
def test_checkpointing_behind_the_tap_is_refused(is_reentrant, monkeypatch):
    """Run twice it would count a batch twice in the statistics of BN."""
    def way(self, part, x):
        return checkpoint(part, x, use_reentrant=is_reentrant)

    build = Net.__init__
    monkeypatch.setattr(Net, '__init__', lambda self, width: (
        build(self, width), setattr(self, 'way', way.__get__(self)))[0])
    with pytest.raises(ConfigError) as error:
        step(dict(loss_own=dict(type=Distance, source='second')))
    for part in ("DistillHook.diagnose = {'interval': 2}", 'heckpoint',
                 'with_cp'):
        assert part in str(error.value)
    _, _, _, run, _, measured = step(  # in front of the tap it does no harm
        dict(loss_own=dict(type=Distance, source='classify')))
    assert measured
    run.close()


@pytest.mark.parametrize('value, says', [
    (3, ['diagnose = 3', 'dict(interval=N)']),
    (dict(intervall=3), ["diagnose = {'intervall': 3}", 'dict(interval=N)']),
    (dict(interval=3, every=2), ['diagnose.every = 2', "'interval'"]),
    (dict(interval=0), ['diagnose.interval', '0', '1 or more'])])
def test_what_it_cannot_be(value, says):
    with pytest.raises(ConfigError) as error:
        DistillHook(dict(type='EMATeacher'), dict(loss_x=dict(
            NFD, source='second')), diagnose=value)
    for part in says:
        assert part in str(error.value)


def one_hot(classes):
    return nn.functional.one_hot(
        torch.tensor(classes), 4).T[None, :, None].float()


def test_agreement_where_the_teacher_is_right_and_wrong():
    """And which classes it is wrong on."""
    diagnosis = Diagnosis('key', 1)
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 255]]])
    ours = one_hot([0, 0, 2, 1, 3, 2, 2, 3])
    theirs = one_hot([0, 3, 0, 1, 1, 1, 2, 3])
    for _ in range(3):
        diagnosis.begin(0)
        diagnosis.compare(ours, theirs, label, 255)
    assert diagnosis.values == {
        'distill.agreement_right': pytest.approx(2 / 5),
        'distill.agreement_wrong': pytest.approx(1 / 2)}
    assert list(diagnosis.advice()) == []  # as often the other way round
    ours[..., 2] = theirs[..., 2]
    for _ in range(3):
        diagnosis.compare(ours, theirs, label, 255)
    text, = diagnosis.advice(['road', 'pole'])
    assert 'class road: at 33 % of its pixels' in text
    assert 'round at 0 %' in text
    diagnosis.begin(1)
    assert diagnosis.values == {}


def test_advice_on_shares_and_on_an_equal_student():
    """By the second half of what was measured."""
    diagnosis = Diagnosis('key', 1)
    for shares in [(.9, .9, .5, .001)] * 3 + [(.003, .97, .5, .001)] * 4:
        for name, share in zip('abc', shares):
            diagnosis._add(f'distill.share.loss_{name}', share)
        diagnosis._add('distill.share.teacher.loss_own', shares[-1])
        diagnosis._add('distill.cosine.loss_a', shares[-1])
    same = one_hot([0, 1, 2])
    diagnosis.compare(same, same, None, 255)
    low, high, equal = diagnosis.advice()
    assert low == ('distill.loss_a is 0.3 % of the gradient at what it looks '
                   'at: raise its loss_weight')
    assert high.startswith('distill.loss_b is 97 %') and 'lower' in high
    assert '100 % of the pixels' in equal
    for key in ('loss_c', '0.5', 'share.teacher.loss_own'):
        assert key in diagnosis.summary()
