import math

import pytest
import torch

from mmselfkd.losses import DISTLoss, dist_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, *shape, generator=generator,
                           dtype=torch.float64)


def pearson(a, b, w=None):
    w = [1.0] * len(a) if w is None else w
    total = sum(w)
    mean_a, mean_b = (
        sum(v * u for v, u in zip(x, w)) / total for x in (a, b))
    product = sum(u * (v - mean_a) * (z - mean_b)
                  for v, z, u in zip(a, b, w))
    norms = [math.sqrt(sum(u * (v - m)**2 for v, u in zip(x, w)))
             for x, m in ((a, mean_a), (b, mean_b))]
    return product / (norms[0] * norms[1] + 1e-8)


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def sigmoid(row):
    return [1 / (1 + math.exp(-v)) for v in row]


def naive(student, teacher, beta=1, gamma=1, temperature=1, weight=None,
          activation=softmax):
    rows_s, rows_t = (
        [activation(row) for row in
         (x.movedim(1, 3).flatten(0, 2) / temperature).tolist()]
        for x in (student, teacher))
    w = [1.0] * len(rows_s) if weight is None else weight.flatten().tolist()
    inter = sum(
        (1 - pearson(a, b)) * u for a, b, u in zip(rows_s, rows_t, w)) / sum(w)
    columns = list(zip(zip(*rows_s), zip(*rows_t)))
    intra = sum(1 - pearson(a, b, w) for a, b in columns) / len(columns)
    return beta * inter + gamma * intra


def test_hand_value():
    # two classes: a row's correlation is 1 or -1, here 1 and -1; class 0 has
    # p - mean of (d, -d) in the teacher and (e, e) in the student: 0
    student = torch.tensor([[1., 1.], [0., 0.]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
    assert dist_loss(student, teacher, gamma=0).item() == pytest.approx(1.0)
    assert dist_loss(student, teacher, beta=0).item() == pytest.approx(1.0)


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 5, 3, 2), (3, 2, 1, 2)])
@pytest.mark.parametrize('options', [
    {}, dict(beta=2.0, gamma=0.5), dict(temperature=4.0)])
def test_equation(shape, options):
    student, teacher = maps(*shape)
    assert dist_loss(student, teacher, **options).item() == pytest.approx(
        naive(student, teacher, **options), rel=1e-9)
    single = dist_loss(student.float(), teacher.float(), **options)
    assert single.item() == pytest.approx(
        naive(student, teacher, **options), rel=1e-5)


def test_equation_by_sigmoid_and_weighted():
    student, teacher = maps(2, 4, 3, 5)
    weight = maps(2, 1, 3, 5, seed=1)[0].abs()
    weight[0, 0, 1] = 0
    assert dist_loss(
        student, teacher, activation='sigmoid').item() == pytest.approx(
            naive(student, teacher, activation=sigmoid))
    assert dist_loss(student, teacher, weight=weight).item() == pytest.approx(
        naive(student, teacher, weight=weight))


def test_pixels_are_rows_over_all_images():
    """Not the images at each position: one image has something to teach."""
    student, teacher = maps(2, 4, 3, 5)
    one = [x.transpose(0, 1).reshape(1, 4, 6, 5) for x in (student, teacher)]
    torch.testing.assert_close(dist_loss(*one), dist_loss(student, teacher))
    student.requires_grad_()
    dist_loss(student[:1], teacher[:1], beta=0).backward()
    assert student.grad[0].abs().max() > 1e-4


def test_shift_of_a_pixel_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    shift, other = maps(2, 1, 3, 5, seed=1)
    torch.testing.assert_close(
        dist_loss(student + shift, teacher + other),
        dist_loss(student, teacher))


def test_temperature_divides_and_nothing_else():
    student, teacher = maps(2, 4, 3, 5)
    torch.testing.assert_close(
        dist_loss(3 * student, 3 * teacher, temperature=3),
        dist_loss(student, teacher))


def test_ignored_pixels_take_no_part_where_asked():
    student, teacher = maps(1, 3, 4, 6)
    label = torch.zeros(1, 8, 12).long()
    label[:, :, 6:] = 255
    expected = dist_loss(student[..., :3], teacher[..., :3])
    loss = DISTLoss(ignore_index='head')
    assert loss.needs_label and not DISTLoss().needs_label
    torch.testing.assert_close(loss(student, teacher, label=label), expected)
    torch.testing.assert_close(
        DISTLoss()(student, teacher, label=label), dist_loss(student, teacher))
    label[:] = 255
    student.requires_grad_()
    value = loss(student, teacher, label=label)
    value.backward()
    assert value == 0 and student.grad.abs().max() == 0


def test_classes_that_are_all_the_same_teach_nothing_and_stay_finite():
    student, teacher = maps(1, 3, 4, 6)
    student = torch.zeros_like(student).requires_grad_()
    value = dist_loss(student, teacher)
    value.backward()
    assert value == 2 and student.grad.abs().max() == 0


@pytest.mark.parametrize('options', [
    dict(temperature=0), dict(beta=-1.0), dict(gamma=float('nan')),
    dict(activation='tanh'), dict(ignore_index='none')])
def test_bad_argument(options):
    name, = options
    with pytest.raises(ValueError, match=name):
        DISTLoss(**options)
