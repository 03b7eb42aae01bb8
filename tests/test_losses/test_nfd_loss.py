import itertools
import math

import pytest
import torch

from mmselfkd.losses import NFDLoss, nfd_loss

every_dims = pytest.mark.parametrize('dims', ['hw', 'nhw', 'c', 'chw'])


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, 3 + 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def naive(student, teacher, dims, eps):
    """The equation by loops over all elements."""
    indices = list(itertools.product(*map(range, student.shape)))

    def group(index):
        return tuple(
            i for i, name in zip(index, 'nchw') if name not in dims)

    def standardised(maps):
        groups = {}
        for index in indices:
            groups.setdefault(group(index), []).append(maps[index].item())
        out = {}
        for index in indices:
            values = groups[group(index)]
            mean = sum(values) / len(values)
            var = sum((v - mean)**2 for v in values) / len(values)
            out[index] = (maps[index].item() - mean) / math.sqrt(var + eps)
        return out

    s, t = standardised(student), standardised(teacher)
    return sum((s[i] - t[i])**2 for i in indices) / len(indices)


def test_hand_value():
    # (0, 4): mean 2, variance 4, eps 5: (-2/3, 2/3); (3, 3): (0, 0)
    student = torch.tensor([0., 4.]).view(1, 1, 2, 1)
    teacher = torch.tensor([3., 3.]).view(1, 1, 2, 1)
    value = nfd_loss(student, teacher, eps=5)
    torch.testing.assert_close(value, torch.tensor(4 / 9))


@every_dims
@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 3, 3, 2), (2, 1, 2, 3),
                                   (3, 2, 1, 1)])
@pytest.mark.parametrize('eps', [1e-5, 0.1])
def test_equation(dims, shape, eps):
    student, teacher = maps(*shape)
    expected = naive(student, teacher, dims, eps)
    value = nfd_loss(student, teacher, dims=dims, eps=eps)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = nfd_loss(student.float(), teacher.float(), dims=dims, eps=eps)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_twice_one_minus_the_correlation():
    student, teacher = maps(2, 3, 6, 5)
    r = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(
        student.flatten(0, 1).flatten(1), teacher.flatten(0, 1).flatten(1))]
    torch.testing.assert_close(
        nfd_loss(student, teacher, eps=1e-12), 2 * (1 - torch.stack(r).mean()))


@every_dims
def test_shift_and_scale_have_no_effect(dims):
    student, teacher = maps(2, 3, 4, 5)
    shape = [1 if name in dims else size
             for name, size in zip('nchw', student.shape)]
    scale, shift = maps(*shape, seed=1)
    moved = student * (0.5 + scale.abs()) + shift
    value = nfd_loss(student, teacher, dims=dims, eps=1e-10)
    torch.testing.assert_close(
        nfd_loss(moved, teacher, dims=dims, eps=1e-10), value)
    torch.testing.assert_close(
        nfd_loss(moved, student, dims=dims, eps=1e-10) + value, value)
    assert nfd_loss(-student, student, dims=dims) == pytest.approx(4, rel=1e-3)


@every_dims
def test_enlarged_map_has_the_same_value(dims):
    student, teacher = maps(2, 3, 4, 5)
    big = [m.repeat_interleave(2, 2).repeat_interleave(3, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(
        nfd_loss(*big, dims=dims), nfd_loss(student, teacher, dims=dims))


@every_dims
def test_constant_maps_become_zero(dims):
    student = torch.full((2, 3, 37, 41), 12345.678).requires_grad_()
    teacher = torch.full((2, 3, 37, 41), -9876.543)
    value = nfd_loss(student, teacher, dims=dims)
    value.backward()
    assert value.item() < 1e-6
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('dims, is_needed', [
    ('hw', True), ('nhw', False), ('c', False), ('chw', False)])
def test_which_statistics_need_positions(dims, is_needed):
    """Refused for one vector a region: all of its means are of one number."""
    assert NFDLoss(dims).needs_positions is is_needed


@pytest.mark.parametrize('name, value, allowed', [
    ('dims', 'wh', "one of 'hw', 'nhw', 'c', 'chw'"),
    ('dims', None, "one of 'hw', 'nhw', 'c', 'chw'"),
    ('eps', 0, 'a finite number above 0'),
    ('eps', -1e-5, 'a finite number above 0'),
    ('eps', float('nan'), 'a finite number above 0'),
])
def test_bad_arguments(name, value, allowed):
    features = torch.zeros(1, 2, 3, 3)
    for call in (lambda: NFDLoss(**{name: value}),
                 lambda: nfd_loss(features, features, **{name: value})):
        with pytest.raises(ValueError) as error:
            call()
        assert f'{name} must be {allowed}' in str(error.value)
        assert repr(value) in str(error.value)
