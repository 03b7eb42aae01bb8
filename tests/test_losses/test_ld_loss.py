import math

import pytest
import torch

from mmselfkd.losses import LDLoss, ld_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(2, *shape, generator=generator,
                           dtype=torch.float64)


def regions_of():
    regions = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    regions[0, 0, 1, 1:3] = 1 / 2
    regions[0, 1, 0] = 1 / 4
    regions[1, 1, 2, 3] = 1
    return regions


def softmax(values):
    values = [math.exp(value) for value in values]
    return [value / sum(values) for value in values]


def by_loops(student, teacher, regions, score, temperature, vlr):
    n, channels, height, width = student.shape
    bins = channels // 4
    total = 0.0
    for i in range(n):
        for y in range(height):
            for x in range(width):
                weight = (regions[i, 0, y, x] * score[i, 0, y, x]
                          + vlr * regions[i, 1, y, x]).item()
                for side in range(4):
                    q_s, q_t = (softmax([
                        maps_[i, side * bins + b, y, x].item() / temperature
                        for b in range(bins)]) for maps_ in (
                            student, teacher))
                    total += weight / 4 * temperature**2 * sum(
                        t * math.log(t / s) for s, t in zip(q_s, q_t))
    return total / n


def test_equation():
    student, teacher = maps(2, 4 * 5, 3, 4)
    score = maps(2, 1, 3, 4, seed=1)[0].sigmoid()
    assert ld_loss(
        student, teacher, regions=regions_of(), score=score, temperature=3.0,
        vlr=0.7).item() == pytest.approx(by_loops(
            student, teacher, regions_of(), score, 3.0, 0.7))


def test_module_takes_scores_behind_the_sides():
    student, teacher = maps(2, 4 * 5, 3, 4)
    classes = maps(2, 3, 3, 4, seed=1)[0].requires_grad_()
    score = classes.float().sigmoid().amax(1, keepdim=True)
    loss = LDLoss()
    loss.bins = 5
    pair, = loss.pair_levels([student, classes], [teacher])
    value = loss(*pair, regions=regions_of())
    torch.testing.assert_close(value, ld_loss(
        student, teacher, regions=regions_of(), score=score.detach()))
    student.requires_grad_()
    pair, = loss.pair_levels([student, classes], [teacher])
    loss(*pair, regions=regions_of()).backward()
    assert classes.grad is None  # a weight, nothing to learn
    assert student.grad.abs().max() > 0
    without, = loss.pair_levels([student], [teacher])
    torch.testing.assert_close(
        loss(*without, regions=regions_of()),
        ld_loss(student, teacher, regions=regions_of()))


def test_gradient_for_the_student_in_the_regions_only():
    student, teacher = maps(2, 4 * 5, 3, 4)
    student.requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: ld_loss(s, teacher.detach(), regions=regions_of()), student)
    ld_loss(student, teacher, regions=regions_of()).backward()
    assert teacher.grad is None
    inside = (regions_of().sum(1, keepdim=True) > 0).expand_as(student)
    assert student.grad[~inside].abs().max() == 0
    assert student.grad[inside].abs().min() > 0


def test_empty_regions_are_an_exact_zero():
    student, teacher = maps(2, 4 * 5, 3, 4)
    student.requires_grad_()
    value = ld_loss(student, teacher, regions=0 * regions_of())
    value.backward()
    assert value == 0 and student.grad.abs().max() == 0


def test_a_constant_on_a_side_has_no_effect():
    student, teacher = maps(2, 4 * 5, 3, 4)
    other = student.clone()
    other[:, 5:10] += 2
    torch.testing.assert_close(
        ld_loss(other, teacher, regions=regions_of()),
        ld_loss(student, teacher, regions=regions_of()))


def test_shapes_and_arguments_are_refused():
    student, teacher = maps(2, 4 * 5, 3, 4)
    with pytest.raises(ValueError, match=r'regions.*\(2, 2, 3, 4\).*\(2, 1'):
        ld_loss(student, teacher, regions=torch.zeros(2, 1, 3, 4))
    with pytest.raises(ValueError, match='4 sides.*18'):
        ld_loss(student[:, :18], teacher[:, :18], regions=regions_of())
    for name, value in (('temperature', 0), ('vlr', -1), ('bins', 1)):
        with pytest.raises(ValueError, match=name):
            LDLoss(**{name: value})


def test_half_precision_is_computed_in_float32():
    student, teacher = (x.half() for x in maps(2, 4 * 5, 3, 4))
    torch.testing.assert_close(
        ld_loss(student, teacher, regions=regions_of()),
        ld_loss(student.float(), teacher.float(), regions=regions_of()))
