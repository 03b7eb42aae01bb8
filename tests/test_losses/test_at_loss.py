import math

import pytest
import torch

from mmselfkd.losses.at_loss import ATLoss, at_loss

every_reduction = pytest.mark.parametrize('reduction', ['mean', 'sum'])
every_p = pytest.mark.parametrize('p', [1, 1.5, 2, 4])


def maps(*shape, channels=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    shape = (shape[0], channels or shape[1], *shape[2:])
    return student, 3 + 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def naive(student, teacher, p, reduction):
    """The equation by loops over all elements."""
    batch, _, height, width = student.shape

    def attention(features, n):
        channels = features.shape[1]
        a = [sum(abs(features[n, c, y, x].item())**p
                 for c in range(channels)) / channels
             for y in range(height) for x in range(width)]
        length = math.sqrt(sum(v**2 for v in a))
        return [v / max(length, 1e-12) for v in a]

    total = sum((s - t)**2 for n in range(batch)
                for s, t in zip(attention(student, n), attention(teacher, n)))
    return total / batch / (height * width if reduction == 'mean' else 1)


def test_hand_value():
    # squares (1, 4) and (5, 4): a = (3, 4), phi = (0.6, 0.8)
    student = torch.tensor([[1., 2.], [-math.sqrt(5), 2.]])
    teacher = torch.tensor([0., -7.])  # phi = (0, 1)
    student, teacher = student.view(1, 2, 2, 1), teacher.view(1, 1, 2, 1)
    torch.testing.assert_close(
        at_loss(student, teacher), torch.tensor(0.2))
    torch.testing.assert_close(
        at_loss(student, teacher, reduction='sum'), torch.tensor(0.4))
    # p = 1: magnitudes (6, 4) and (0, 4)
    student = torch.tensor([[-6., 4.], [0., -4.]]).view(1, 2, 2, 1)
    torch.testing.assert_close(
        at_loss(student, teacher, p=1), torch.tensor(0.2))


@every_p
@every_reduction
@pytest.mark.parametrize('shape, channels', [
    ((1, 3, 4, 5), 3), ((2, 3, 3, 2), 5), ((2, 1, 2, 3), 1),
    ((1, 4, 1, 3), 1), ((3, 2, 1, 1), 4)])
def test_equation(shape, channels, p, reduction):
    student, teacher = maps(*shape, channels=channels)
    expected = naive(student, teacher, p, reduction)
    value = at_loss(student, teacher, p=p, reduction=reduction)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = at_loss(student.float(), teacher.float(), p=p,
                     reduction=reduction)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_twice_one_minus_the_cosine():
    student, teacher = maps(2, 3, 6, 5)
    cosine = torch.cosine_similarity(
        *(m.square().mean(1).flatten(1) for m in (student, teacher)))
    torch.testing.assert_close(
        at_loss(student, teacher, reduction='sum'), 2 * (1 - cosine.mean()))


@every_p
def test_zero_at_equality(p):
    student, teacher = maps(2, 3, 4, 5)
    same = teacher.clone().requires_grad_()
    value = at_loss(same, teacher, p=p)
    value.backward()
    assert value.item() == 0
    assert same.grad.abs().max() < 1e-12
    assert at_loss(student, teacher, p=p) > 1e-3


@every_p
@pytest.mark.parametrize('scale', [1e-8, 0.3, 1e8])
def test_scale_sign_and_order_of_channels_have_no_effect(p, scale):
    student, teacher = maps(2, 4, 3, 5)
    value = at_loss(student, teacher, p=p)
    images = torch.tensor([scale, 2 * scale]).double().view(2, 1, 1, 1)
    for changed in (student * scale, student * images, -student,
                    student[:, [2, 0, 3, 1]], student.repeat(1, 3, 1, 1)):
        torch.testing.assert_close(at_loss(changed, teacher, p=p), value)
    for changed in (teacher * images, teacher[:, [2, 0, 3, 1]]):
        torch.testing.assert_close(at_loss(student, changed, p=p), value)


@pytest.mark.parametrize('rows, columns', [(2, 2), (1, 3), (4, 2)])
def test_enlarged_map(rows, columns):
    student, teacher = maps(2, 3, 4, 5)
    big = [m.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(
        at_loss(*big, reduction='sum'),
        at_loss(student, teacher, reduction='sum'))
    torch.testing.assert_close(
        at_loss(*big) * rows * columns, at_loss(student, teacher))


@every_reduction
def test_does_not_depend_on_the_batch_size(reduction):
    student, teacher = maps(2, 3, 4, 5)
    torch.testing.assert_close(
        at_loss(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1),
                reduction=reduction),
        at_loss(student, teacher, reduction=reduction))


@every_p
@every_reduction
@pytest.mark.parametrize('shape', [(1, 3, 3, 2), (2, 1, 1, 3)])
def test_gradient_is_the_derivative(shape, p, reduction):
    student, teacher = maps(*shape, channels=2)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: at_loss(s, teacher, p=p, reduction=reduction), student)


@every_reduction
def test_gradient_for_the_student_only(reduction):
    student, teacher = (m.requires_grad_() for m in maps(2, 3, 4, 5))
    at_loss(student, teacher, reduction=reduction).backward()
    assert teacher.grad is None
    assert (student.grad != 0).all()


@every_reduction
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, reduction):
    student, teacher = (m.to(dtype) for m in maps(2, 3, 4, 5))
    student.requires_grad_()
    value = at_loss(student, teacher, reduction=reduction)
    assert value.dtype == torch.float32
    assert torch.equal(value, at_loss(student.float(), teacher.float(),
                                      reduction=reduction))
    value.backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    student, teacher = (m.float() for m in maps(2, 3, 4, 5))
    expected = at_loss(student, teacher)
    with torch.autocast('cpu', dtype=dtype):
        value = at_loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@pytest.mark.parametrize('p', [1, 1.5, 2, 9.5, 64])
@every_reduction
@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_maps_stay_finite(dtype, p, reduction):
    normal, other = maps(2, 3, 4, 5)
    zero = torch.zeros(2, 3, 4, 5)
    half_zero = other * torch.tensor([1, 0]).view(2, 1, 1, 1)
    large = normal.clamp(-1, 1) * 6e4
    cases = [(zero, zero), (zero, other), (other, zero), (half_zero, other),
             (large, other), (other, large), (zero + 6e4, large),
             (normal * 1e-3, large)]
    for student, teacher in cases:
        student = student.to(dtype).requires_grad_()
        value = at_loss(student, teacher.to(dtype), p=p, reduction=reduction)
        value.backward()
        assert value.isfinite() and 0 <= value <= 2
        assert student.grad.isfinite().all()


@pytest.mark.parametrize('scale', [1e-38, 1e-30, 1e-15, 1e30])
@every_p
def test_whole_range_of_float32(scale, p):
    student, teacher = (m.float() for m in maps(2, 3, 4, 5))
    student = (student * scale).requires_grad_()
    value = at_loss(student, teacher, p=p)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    assert at_loss(teacher, student, p=p).isfinite()


def test_large_maps_keep_their_value():
    student, teacher = (m.float() for m in maps(2, 3, 4, 5))
    for p in (2, 4, 16):
        torch.testing.assert_close(
            at_loss(6e4 * student, 6e4 * teacher, p=p),
            at_loss(student, teacher, p=p))


def test_images_of_very_different_scale():
    student, teacher = (m.float() for m in maps(2, 3, 4, 5))
    images = torch.tensor([1e-9, 1e9]).view(2, 1, 1, 1)
    torch.testing.assert_close(
        at_loss(images * student, images * teacher, p=4),
        at_loss(student, teacher, p=4))


def test_image_without_activation():
    # phi_s = 0 and phi_t of length 1: the squares add up to 1
    student = torch.zeros(2, 3, 4, 5).requires_grad_()
    _, teacher = maps(2, 3, 4, 5)
    value = at_loss(student, teacher.float(), reduction='sum')
    value.backward()
    torch.testing.assert_close(value, torch.tensor(1.0))
    assert (student.grad == 0).all()


@pytest.mark.parametrize('student, teacher', [
    ((2, 4, 6, 5), (2, 4, 5, 6)),
    ((2, 4, 6, 5), (1, 4, 6, 5)),
    ((4, 6, 5), (4, 6, 5)),
    ((2, 0, 6, 5), (2, 4, 6, 5)),
])
def test_error_shows_both_shapes(student, teacher):
    with pytest.raises(ValueError) as error:
        at_loss(torch.zeros(student), torch.zeros(teacher))
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)


def test_integer_maps_are_refused():
    features = torch.ones(1, 2, 3, 3)
    with pytest.raises(TypeError, match='student.*int64'):
        at_loss(features.long(), features)
    with pytest.raises(TypeError, match='teacher.*int64'):
        at_loss(features, features.long())


@pytest.mark.parametrize('name, value, allowed', [
    ('p', 0.5, 'a finite number of 1 or more'),
    ('p', -2, 'a finite number of 1 or more'),
    ('p', float('inf'), 'a finite number of 1 or more'),
    ('p', float('nan'), 'a finite number of 1 or more'),
    ('p', True, 'a finite number of 1 or more'),
    ('p', '2', 'a finite number of 1 or more'),
    ('p', None, 'a finite number of 1 or more'),
    ('reduction', 'none', "one of 'mean', 'sum'"),
    ('reduction', None, "one of 'mean', 'sum'"),
])
def test_bad_arguments(name, value, allowed):
    features = torch.zeros(1, 2, 3, 3)
    for call in (lambda: ATLoss(**{name: value}),
                 lambda: at_loss(features, features, **{name: value})):
        with pytest.raises(ValueError) as error:
            call()
        assert f'{name} must be {allowed}' in str(error.value)
        assert repr(value) in str(error.value)


def test_module_equals_function():
    student, teacher = maps(2, 4, 7, 9, channels=3)
    default = at_loss(student, teacher)
    assert torch.equal(ATLoss()(student, teacher), default)
    for options in (dict(p=4), dict(reduction='sum'),
                    dict(p=1.5, reduction='sum')):
        expected = at_loss(student, teacher, **options)
        assert torch.equal(ATLoss(**options)(student, teacher), expected)
        assert not torch.equal(expected, default)
