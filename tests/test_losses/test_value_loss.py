import math

import pytest
import torch

from mmselfkd.losses import ValueLoss, value_loss

MODES = ['l1', 'log_l1', 'scale_invariant']


def maps(*shape, seed=0):
    """Positive ones, a few of them below the least value."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator).double() * 10
            for _ in 'st']


def naive(student, teacher, weight, mode, balance, least):
    """The equation by loops; ``weight`` [n][m] sums to 1 in an image."""
    total, (batch, channels) = 0.0, student.shape[:2]
    for n in range(batch):
        for c in range(channels):
            rows = (x[n, c].flatten().tolist() for x in (student, teacher))
            square = mean = absolute = 0.0
            for w, s, t in zip(weight[n], *rows):
                d = s - t if mode == 'l1' else (
                    math.log(max(s, least)) - math.log(max(t, least)))
                square += w * d * d
                mean += w * d
                absolute += w * abs(d)
            total += (square - balance * mean**2
                      if mode == 'scale_invariant' else absolute)
    return total / batch / channels


def test_hand_values():
    # log ratios 0, log 2 and log 4; differences 0, 1 and 3
    student = torch.tensor([1., 2., 4.]).view(1, 1, 1, 3)
    teacher = torch.ones(1, 1, 1, 3)
    log = math.log(2)
    for options, expected in (
            (dict(), 4 / 3), (dict(mode='log_l1'), log),
            (dict(mode='scale_invariant', balance=0), 5 / 3 * log**2),
            (dict(mode='scale_invariant'), 7 / 6 * log**2),
            (dict(mode='scale_invariant', balance=1), 2 / 3 * log**2)):
        assert value_loss(student, teacher, **options).item() == (
            pytest.approx(expected))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('balance', [0, 0.5, 1])
@pytest.mark.parametrize('shape', [(1, 1, 3, 4), (2, 3, 2, 3), (3, 2, 1, 1)])
def test_equation(shape, mode, balance):
    student, teacher = maps(*shape)
    options = dict(mode=mode, balance=balance, least=2.0)
    count = shape[2] * shape[3]
    equal = [[1 / count] * count] * shape[0]
    weight = torch.rand(shape[0], 1, *shape[2:]).double()
    weight[0, 0, 0, 1:] = 0
    sums = weight.flatten(1) / weight.flatten(1).sum(1, keepdim=True)
    for given, shares in ((None, equal), (3 * weight, sums.tolist())):
        expected = naive(student, teacher, shares, **options)
        value = value_loss(student, teacher, weight=given, **options)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        single = value_loss(
            student.float(), teacher.float(), weight=given, **options)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_gradient_is_the_derivative(mode):
    student, teacher = maps(2, 2, 3, 4)
    weight = torch.rand(2, 1, 3, 4)
    weight[0, 0, 0] = 0
    for given in (None, weight):
        assert torch.autograd.gradcheck(
            lambda s, w=given: value_loss(s, teacher, weight=w, mode=mode),
            student.requires_grad_())
    loss = value_loss(student, teacher.requires_grad_(), mode=mode)
    loss.backward()
    assert teacher.grad is None


def test_a_common_factor_is_forgiven():
    student, teacher = maps(2, 1, 4, 5)
    factor = torch.tensor([0.5, 7.0]).view(2, 1, 1, 1)

    def value(student, **options):
        return value_loss(student, teacher, least=1e-9, **options)

    invariant = dict(mode='scale_invariant', balance=1)
    torch.testing.assert_close(
        value(factor * student, **invariant), value(student, **invariant))
    assert value(factor * teacher, **invariant) < 1e-12
    for options in (dict(), dict(mode='log_l1'),
                    dict(mode='scale_invariant')):
        assert value(factor * teacher, **options) > 0.1


def test_logarithms_have_no_unit():
    student, teacher = maps(2, 1, 4, 5)
    for mode in MODES:
        ratio = (value_loss(100 * student, 100 * teacher, mode=mode,
                            least=1e-9)
                 / value_loss(student, teacher, mode=mode, least=1e-9))
        assert ratio.item() == pytest.approx(100 if mode == 'l1' else 1)


@pytest.mark.parametrize('mode', MODES)
def test_what_weighs_nothing_may_hold_anything(mode):
    student, teacher = maps(2, 1, 4, 5)
    weight = torch.ones(2, 1, 4, 5)
    weight[:, :, 2:] = 0
    expected = value_loss(student[:, :, :2], teacher[:, :, :2], mode=mode)
    for filler in (0.0, -5.0, 1e30, math.inf, math.nan):
        s, t = student.clone(), teacher.clone()
        s[:, :, 2:], t[:, :, 2:] = filler, -filler
        s.requires_grad_()
        value = value_loss(s, t, weight=weight, mode=mode)
        value.backward()
        torch.testing.assert_close(value, expected)
        assert s.grad[:, :, 2:].abs().max() == 0
        assert s.grad[:, :, :2].abs().max() > 0


def test_values_below_the_least():
    student = torch.tensor([-3., 0., 1e-9, 2.]).view(1, 1, 1, 4)
    student.requires_grad_()
    teacher = torch.ones(1, 1, 1, 4)
    value = value_loss(student, teacher, mode='log_l1', least=0.5)
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert (student.grad.flatten() != 0).tolist() == [False] * 3 + [True]


@pytest.mark.parametrize('options', [
    dict(), dict(mode='log_l1', least=0.5),
    dict(mode='scale_invariant', balance=0.25)])
def test_module_equals_function(options):
    student, teacher = maps(2, 3, 4, 5)
    weight = torch.rand(2, 1, 4, 5)
    assert torch.equal(
        ValueLoss(**options)(student, teacher, weight=weight),
        value_loss(student, teacher, weight=weight, **options))


@pytest.mark.parametrize('name, value, allowed', [
    ('mode', 'l2', "one of 'l1', 'log_l1', 'scale_invariant'"),
    ('balance', 1.5, 'a finite number of 0 or more, at most 1'),
    ('balance', -0.1, 'a finite number of 0 or more'),
    ('least', 0, 'a finite number above 0'),
])
def test_bad_arguments(name, value, allowed):
    ones = torch.ones(1, 1, 2, 2)
    for call in (lambda: ValueLoss(**{name: value}),
                 lambda: value_loss(ones, ones, **{name: value})):
        with pytest.raises(ValueError) as error:
            call()
        assert f'{name} must be {allowed}' in str(error.value)
        assert repr(value) in str(error.value)
