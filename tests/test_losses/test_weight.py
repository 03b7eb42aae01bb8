"""Weights of positions: what they leave out, and the mean they make."""
import math

import pytest
import torch
import torch.nn.functional as F

from mmselfkd.losses import (
    ATLoss,
    CIRKDMiniBatchLoss,
    CWDLoss,
    DISTLoss,
    FitNetsLoss,
    ICSDLoss,
    KDLoss,
    NFDLoss,
    PairwiseLoss,
    PKDLoss,
    TFDInterLoss,
    TFDIntraLoss,
    ValueLoss,
)

LOSSES = dict(
    kd=KDLoss(2.0), kd_sigmoid=KDLoss(activation='sigmoid'),
    kd_dtd=KDLoss(2.0, dynamic_temperature=dict(type='FLSW', mean='image')),
    nfd=NFDLoss(), nfd_c=NFDLoss('c'), nfd_chw=NFDLoss('chw'),
    nfd_nhw=NFDLoss('nhw'), pair=PairwiseLoss(pool=None),
    pair_pool=PairwiseLoss(), pair_max=PairwiseLoss(pool_mode='max'),
    pair_local=PairwiseLoss(pool=None, connection_range=1),
    pair_few=PairwiseLoss(pool=4), icsd=ICSDLoss(2.0), at=ATLoss(),
    at_sum=ATLoss(reduction='sum'), inter=TFDInterLoss(),
    intra=TFDIntraLoss(), value=ValueLoss(),
    value_si=ValueLoss('scale_invariant'), kd_sides=KDLoss(groups=2),
    cwd=CWDLoss(2.0), dist=DISTLoss(), pkd=PKDLoss(), fitnets=FitNetsLoss(),
    dist_sigmoid=DISTLoss(activation='sigmoid'),
    cirkd=CIRKDMiniBatchLoss(0.5), cirkd_pool=CIRKDMiniBatchLoss(0.5, pool=2))
every_loss = pytest.mark.parametrize('name', LOSSES)


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator).double(),
            torch.randn(shape, generator=generator).double())


@every_loss
def test_equal_weights_change_nothing(name):
    student, teacher = maps(2, 4, 6, 8)
    weight = torch.full((2, 1, 6, 8), 3.0)
    loss = LOSSES[name]
    torch.testing.assert_close(loss(student, teacher, weight=weight),
                               loss(student, teacher))


@every_loss
def test_padding_is_the_same_as_none(name):
    # of one image padded at the right and at the bottom, whatever is there
    student, teacher = maps(2, 4, 4, 4)
    loss = LOSSES[name]
    expected = loss(student, teacher)
    weight = F.pad(torch.ones(2, 1, 4, 4), (0, 4, 0, 4))
    for padding in (0.0, 7.0, -50.0):
        padded = [F.pad(x, (0, 4, 0, 4), value=padding * (i + 1))
                  for i, x in enumerate((student, teacher))]
        if name == 'inter':  # a map pooled by 2, as a deeper level is
            padded[1] = F.pad(teacher[..., ::2, ::2], (0, 2, 0, 2), value=9)
            expected = loss(student, teacher[..., ::2, ::2])
        padded[0].requires_grad_()
        value = loss(*padded, weight=weight)
        torch.testing.assert_close(value, expected)
        value.backward()
        assert padded[0].grad[..., 4:].abs().max() == 0
        assert padded[0].grad[..., 4:, :].abs().max() == 0
        assert padded[0].grad[..., :4, :4].abs().max() > 0


@every_loss
def test_weight_zero_everywhere_is_an_exact_zero(name):
    student, teacher = maps(2, 4, 6, 8)
    student.requires_grad_()
    value = LOSSES[name](student, teacher, weight=torch.zeros(2, 1, 6, 8))
    value.backward()
    assert value == 0 and student.grad.abs().max() == 0


@every_loss
def test_only_the_ratio_of_the_weights_counts(name):
    student, teacher = maps(1, 4, 6, 8)
    weight = torch.rand(1, 1, 6, 8)
    loss = LOSSES[name]
    torch.testing.assert_close(loss(student, teacher, weight=weight),
                               loss(student, teacher, weight=5 * weight))


@pytest.mark.parametrize(
    'name', [name for name in LOSSES if name != 'kd_dtd'])
def test_gradient_is_the_derivative(name):  # temperatures have no gradient
    student, teacher = maps(2, 4, 3, 4)
    if name == 'pair_few':
        student, teacher = maps(2, 4, 5, 6)
    weight = torch.rand(2, 1, *student.shape[2:])
    weight[0, 0, 0] = 0
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, teacher, weight=weight), student)


@every_loss
def test_shape_is_checked(name):
    student, teacher = maps(2, 4, 6, 8)
    with pytest.raises(ValueError, match='weight must have shape'):
        LOSSES[name](student, teacher, weight=torch.ones(2, 6, 8))


@pytest.mark.parametrize('name', [
    'kd', 'kd_sigmoid', 'nfd_c', 'pair', 'icsd', 'cwd', 'fitnets', 'dist',
    'cirkd'])
def test_weight_two_is_a_position_twice(name):
    # where a position stands does not matter to these
    student, teacher = maps(1, 4, 1, 5)
    twice = [torch.cat([x, x[..., :2]], dim=3) for x in (student, teacher)]
    weight = torch.ones(1, 1, 1, 5)
    weight[..., :2] = 2
    torch.testing.assert_close(
        LOSSES[name](student, teacher, weight=weight), LOSSES[name](*twice))


def test_weighted_mean_of_standardised_differences():
    student, teacher = maps(2, 3, 4, 5)
    weight = torch.rand(2, 1, 4, 5).double()
    got = NFDLoss()(student, teacher, weight=weight)

    def standardised(x):
        x = x - x.mean((2, 3), keepdim=True)
        return x / (x.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()

    difference = (standardised(student) - standardised(teacher)).square()
    expected = sum(
        (difference[n, c] * weight[n, 0]).sum() / weight[n, 0].sum()
        for n in range(2) for c in range(3)) / 6
    torch.testing.assert_close(got, expected)


def test_local_pairs_by_a_loop():
    student, teacher = (F.normalize(x, dim=1) for x in maps(1, 3, 4, 5))
    weight = torch.rand(1, 1, 4, 5).double()
    total = norm = 0.0
    places = [(y, x) for y in range(4) for x in range(5)]
    for a in places:
        for b in places:
            if max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 2:
                continue
            w = (weight[0, 0][a] * weight[0, 0][b]).item()
            s, t = ((x[0, :, a[0], a[1]] @ x[0, :, b[0], b[1]]).item()
                    for x in (student, teacher))
            total += w * (s - t)**2
            norm += w
    got = PairwiseLoss(pool=None, connection_range=2)(
        student, teacher, weight=weight)
    assert got.item() == pytest.approx(total / norm)


def test_binary_divergence_by_hand():
    # teacher says 3/4, student 1/2
    teacher = torch.tensor([math.log(3.0)]).view(1, 1, 1, 1)
    expected = .75 * math.log(.75 / .5) + .25 * math.log(.25 / .5)
    got = KDLoss(activation='sigmoid')(torch.zeros(1, 1, 1, 1), teacher)
    assert got.item() == pytest.approx(expected)


def test_binary_divergence_is_a_sum_over_the_classes_at_a_temperature():
    student, teacher = maps(2, 3, 2, 2)
    p, q = (teacher / 3).sigmoid(), (student / 3).sigmoid()
    naive = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    got = KDLoss(3.0, activation='sigmoid')(student, teacher)
    torch.testing.assert_close(got, 9 * naive.sum(1).mean())


def test_huge_logits_by_sigmoid_are_finite():
    student = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    teacher = torch.tensor([-1e4, 1e4, 1e4]).view(1, 3, 1, 1)
    for adjust in (None, dict(type='ProbabilityShift'),
                   dict(type='LabelSmoothing', correct=1.0)):
        loss = KDLoss(activation='sigmoid', adjust=adjust)
        value = loss(student, teacher, label=torch.zeros(1, 1, 1).long())
        value.backward()
        assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('adjust, wanted', [
    (dict(type='ProbabilityShift'), [0.5, 0.25, 0.75]),
    (dict(type='LabelSmoothing', correct=0.5), [0.25, 0.25, 0.5]),
])
def test_adjusted_answers(adjust, wanted):
    # the teacher is sure of class 0 (3/4), the label is 2 (1/2)
    teacher = torch.tensor([0.75, 0.25, 0.5]).logit().view(1, 3, 1, 1)
    label = torch.full((1, 1, 1), 2)
    target = torch.tensor(wanted).view(1, 3, 1, 1).logit()
    student = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        KDLoss(activation='sigmoid', adjust=adjust)(
            student, teacher, label=label),
        KDLoss(activation='sigmoid')(student, target))


def test_temperature_by_confidence_needs_a_softmax():
    loss = KDLoss(activation='sigmoid', dynamic_temperature=dict(type='CWSM'))
    with pytest.raises(ValueError, match='FLSW'):
        loss(*maps(1, 3, 2, 2))
    with pytest.raises(ValueError, match='activation'):
        KDLoss(activation='tanh')


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from mmselfkd.losses import KDLoss

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
torch.manual_seed(0)
student, teacher = torch.randn(2, 4, 3, 6, 5).double()
weight = torch.ones(4, 1, 6, 5).double()
weight[3, :, 4:] = 0  # a batch padded on the second rank only
mine = slice(2 * rank, 2 * rank + 2)
loss = KDLoss(ignore_index=None)
loss.sync_ranks = True
part = loss(
    student[mine], teacher[mine], weight=weight[mine] if rank else None)
distributed.all_reduce(part)
distributed.destroy_process_group()
whole = KDLoss()(student, teacher, weight=weight)
torch.testing.assert_close(part / 2, whole)
"""


def test_a_batch_padded_on_one_rank_only(two_processes):
    two_processes(TWO_PROCESSES)
