import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmselfkd.losses import PairwiseLoss, pairwise_loss


def maps(shape, channels, seed=0):
    """Student and teacher in float64; ``channels`` are the teacher's."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    shape = (shape[0], channels, *shape[2:])
    return student, torch.randn(
        shape, generator=generator, dtype=torch.float64)


def naive_nodes(image, pool, pool_mode):
    """Dict of (row, column) to a pooled feature, from (C, H, W)."""
    channels, height, width = image.shape
    nodes = {}
    for row in range(math.ceil(height / pool)):
        for column in range(math.ceil(width / pool)):
            pixels = [(y, x) for y in range(row * pool, (row + 1) * pool)
                      for x in range(column * pool, (column + 1) * pool)
                      if y < height and x < width]
            patch = [[image[c, y, x].item() for y, x in pixels]
                     for c in range(channels)]
            if pool_mode == 'max':
                nodes[row, column] = [max(values) for values in patch]
            else:
                nodes[row, column] = [
                    sum(values) / len(values) for values in patch]
    return nodes


def cosine(f, g):
    lengths = math.hypot(*f) * math.hypot(*g)
    return sum(a * b for a, b in zip(f, g)) / lengths if lengths else 0.0


def naive(student, teacher, pool, pool_mode, reach):
    """The equation by loops over images and ordered pairs."""
    total, count = 0.0, 0
    for image_s, image_t in zip(student, teacher):
        s = naive_nodes(image_s, pool or 1, pool_mode)
        t = naive_nodes(image_t, pool or 1, pool_mode)
        for i in s:
            for j in s:
                distance = max(abs(i[0] - j[0]), abs(i[1] - j[1]))
                if reach is not None and distance > reach:
                    continue
                total += (cosine(s[i], s[j]) - cosine(t[i], t[j]))**2
                count += 1
    return total / count


def reference(student, teacher):
    """Value and gradient of the P x P form by autograd, in float64."""
    student = student.double().requires_grad_()
    s, t = (m.flatten(2) / m.flatten(2).norm(dim=1, keepdim=True)
            for m in (student, teacher.double()))
    value = (s.mT @ s - t.mT @ t).square().mean()
    value.backward()
    return value.detach(), student.grad


class Sizes(TorchDispatchMode):
    """Record the number of elements of the largest tensor made."""
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_hand_value():
    # orthogonal student nodes, parallel teacher nodes: (0, 1, 1, 0) / 4
    student = torch.tensor([[2., 0.], [0., 3.]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[1., 5.]]).view(1, 1, 1, 2)
    value = pairwise_loss(student, teacher, pool=None)
    torch.testing.assert_close(value, torch.tensor(0.5))
    # opposite teacher nodes: only a_12 = a_21 = -1 differ from 0
    value = pairwise_loss(student, torch.tensor([[[[1., -5.]]]]), pool=1)
    torch.testing.assert_close(value, torch.tensor(0.5))


def test_hand_value_local():
    # a row of three, student (e1, e2, e1) against a constant: a^s - a^t is
    # 0 on the diagonal and for (1, 3), -1 for the neighbours; 4 of 7 pairs
    student = torch.tensor([[1., 0., 1.], [0., 1., 0.]]).view(1, 2, 1, 3)
    teacher = torch.ones(1, 1, 1, 3)
    value = pairwise_loss(student, teacher, pool=1, connection_range=1)
    torch.testing.assert_close(value, torch.tensor(4 / 7))
    value = pairwise_loss(student, teacher, pool=1)
    torch.testing.assert_close(value, torch.tensor(4 / 9))


@pytest.mark.parametrize('shape, channels', [
    ((1, 3, 4, 5), 2),
    ((2, 2, 5, 3), 4),
    ((1, 1, 3, 4), 1),
    ((2, 20, 2, 3), 30),
    ((1, 4, 1, 5), 3),
])
@pytest.mark.parametrize('pool, pool_mode', [(None, 'avg'), (1, 'max'),
                                             (2, 'avg'), (2, 'max'),
                                             (3, 'avg'), (9, 'avg')])
@pytest.mark.parametrize('reach', [None, 1, 2])
def test_equation(shape, channels, pool, pool_mode, reach):
    student, teacher = maps(shape, channels)
    expected = naive(student, teacher, pool, pool_mode, reach)
    options = dict(pool=pool, pool_mode=pool_mode, connection_range=reach)
    value = pairwise_loss(student, teacher, **options)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-13)
    single = pairwise_loss(student.float(), teacher.float(), **options)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
@pytest.mark.parametrize('reach', [None, 1])
def test_gradient_is_the_derivative(pool_mode, reach):
    for shape, channels, pool in (((1, 2, 4, 3), 3, 1), ((2, 5, 2, 2), 7, 1),
                                  ((1, 2, 5, 3), 3, 2)):
        student, teacher = maps(shape, channels)
        loss = functools.partial(
            pairwise_loss, teacher=teacher, pool=pool, pool_mode=pool_mode,
            connection_range=reach)
        assert torch.autograd.gradcheck(loss, student.requires_grad_())


@pytest.mark.parametrize('shape, channels', [((2, 12, 20, 24), 16),
                                             ((1, 200, 15, 20), 260),
                                             ((2, 80, 10, 12), 80),
                                             ((2, 100, 6, 7), 64)])
@pytest.mark.parametrize('reach', [None, 23])
def test_accuracy_in_float32(shape, channels, reach):
    student, teacher = (m.float() for m in maps(shape, channels))
    value, slope = reference(student, teacher)
    student.requires_grad_()
    result = pairwise_loss(student, teacher, pool=1, connection_range=reach)
    result.backward()
    torch.testing.assert_close(result.double(), value, rtol=1e-5, atol=0)
    error = (student.grad - slope).norm() / slope.norm()
    assert error < 1e-4


@pytest.mark.parametrize('shape', [(2, 16, 20, 24), (2, 64, 6, 7),
                                   (1, 200, 15, 20)])
@pytest.mark.parametrize('mean', [0, 3])  # 3: all positive, much alike
def test_accuracy_near_equality(shape, mean):
    noise, teacher = (m.float() for m in maps(shape, shape[1]))
    teacher = teacher + mean
    student = teacher + 1e-3 * noise
    value, slope = reference(student, teacher)
    student.requires_grad_()
    result = pairwise_loss(student, teacher, pool=1)
    result.backward()
    torch.testing.assert_close(result.double(), value, rtol=1e-4, atol=0)
    error = (student.grad - slope).norm() / slope.norm()
    assert error < 1e-4


@pytest.mark.parametrize('channels, single', [(6, 1e-13), (70, 1e-8)])
def test_never_negative(channels, single):
    """Turned features of the teacher have its similarities."""
    for seed in range(5):
        _, teacher = maps((1, 1, 9, 8), channels, seed)
        turn = maps((1, 1, channels, channels), 1, seed)[0][0, 0]
        student = torch.einsum(
            'cd,ndhw->nchw', torch.linalg.qr(turn).Q, teacher)
        assert 0 <= pairwise_loss(student, teacher, pool=1) < 1e-15
        value = pairwise_loss(student.float(), teacher.float(), pool=1)
        assert 0 <= value < single


def test_invariances():
    student, teacher = maps((2, 3, 5, 4), 6)
    scale = 0.1 + torch.rand(2, 1, 5, 4, generator=torch.Generator())
    for reach in (None, 1):
        value = pairwise_loss(student, teacher, pool=1, connection_range=reach)
        torch.testing.assert_close(
            pairwise_loss(scale * student, teacher / scale, pool=1,
                          connection_range=reach), value)
        torch.testing.assert_close(
            pairwise_loss(student[:, [2, 0, 1]], -teacher, pool=1,
                          connection_range=reach), value)
        for axis in (2, 3):
            torch.testing.assert_close(
                pairwise_loss(student.flip(axis), teacher.flip(axis), pool=1,
                              connection_range=reach), value)


def test_enlarged_map_has_the_same_value():
    student, teacher = maps((2, 3, 3, 5), 6)
    value = pairwise_loss(student, teacher, pool=None)
    big = [m.repeat_interleave(2, 2).repeat_interleave(2, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(pairwise_loss(*big, pool=None), value)
    torch.testing.assert_close(pairwise_loss(*big, pool=2), value)
    torch.testing.assert_close(
        pairwise_loss(*big, pool=2, pool_mode='max'), value)


def test_range_that_covers_the_map_connects_all():
    student, teacher = maps((2, 3, 4, 6), 6)
    value = pairwise_loss(student, teacher, pool=1)
    for reach in (5, 6, 100):
        assert torch.equal(
            pairwise_loss(student, teacher, pool=1, connection_range=reach),
            value)
    assert pairwise_loss(student, teacher, pool=1, connection_range=4) != value


def test_zero_features_have_similarity_zero():
    student, teacher = maps((2, 3, 3, 4), 6)
    student[0, :, 1, 2] = 0
    teacher[1, :, 2, 0] = 0
    for reach in (None, 1):
        single = student.half().requires_grad_()
        value = pairwise_loss(single, teacher.half(), pool=1,
                              connection_range=reach)
        value.backward()
        expected = naive(single, teacher.half(), 1, 'avg', reach)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        assert single.grad.isfinite().all()
        assert single.grad[0, :, 1, 2].abs().max() < 1


@pytest.mark.parametrize('options', [
    dict(pool=None),
    dict(pool=None, connection_range=2),
    dict(pool=2),
])
def test_no_tensor_grows_with_the_square_of_the_nodes(options):
    student, teacher = (m.float() for m in maps((2, 8, 40, 50), 16))
    student.requires_grad_()
    with Sizes() as sizes:
        pairwise_loss(student, teacher, **options).backward()
    assert sizes.largest <= teacher.numel() < 2000**2 / 10


def test_node_form_where_channels_outnumber_nodes():
    student, teacher = (m.float() for m in maps((1, 300, 2, 3), 400))
    student.requires_grad_()
    with Sizes() as sizes:
        pairwise_loss(student, teacher, pool=None).backward()
    assert sizes.largest == teacher.numel()


@pytest.mark.parametrize('name, value, allowed', [
    ('pool', 0, 'None or an integer of 1 or more'),
    ('pool', 1.5, 'None or an integer of 1 or more'),
    ('pool_mode', 'mean', "one of 'avg', 'max'"),
    ('connection_range', -1, 'None or an integer of 1 or more'),
    ('connection_range', True, 'None or an integer of 1 or more'),
])
def test_bad_arguments(name, value, allowed):
    features = torch.zeros(1, 2, 3, 3)
    for call in (lambda: PairwiseLoss(**{name: value}),
                 lambda: pairwise_loss(features, features, **{name: value})):
        with pytest.raises(ValueError) as error:
            call()
        assert f'{name} must be {allowed}' in str(error.value)
        assert repr(value) in str(error.value)
