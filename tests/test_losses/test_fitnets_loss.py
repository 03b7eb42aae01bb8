import pytest
import torch

from mmselfkd.losses import FitNetsLoss, fitnets_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def test_hand_value():
    student = torch.tensor([1., 2., 0., -1.]).view(1, 2, 1, 2)
    teacher = torch.tensor([1., 0., 3., -1.]).view(1, 2, 1, 2)
    assert fitnets_loss(student, teacher).item() == (4 + 9) / 4


def test_equation():
    student, teacher = maps(2, 3, 4, 5)
    squares = [(a - b)**2 for a, b in zip(student.flatten().tolist(),
                                          teacher.flatten().tolist())]
    assert fitnets_loss(student, teacher).item() == pytest.approx(
        sum(squares) / len(squares))


def test_weighted_equation():
    student, teacher = maps(2, 3, 4, 5)
    weight = maps(2, 1, 4, 5, seed=1)[0].abs()
    total = 0.0
    for n in range(2):
        for c in range(3):
            values = (student - teacher)[n, c].flatten().tolist()
            w = weight[n, 0].flatten().tolist()
            total += sum(a * v * v for a, v in zip(w, values)) / sum(w)
    assert fitnets_loss(
        student, teacher, weight=weight).item() == pytest.approx(total / 6)


def test_gradient_by_hand():
    student, teacher = maps(2, 3, 4, 5)
    student.requires_grad_()
    fitnets_loss(student, teacher).backward()
    torch.testing.assert_close(
        student.grad, 2 * (student.detach() - teacher) / student.numel())


def test_what_has_no_effect_and_what_has():
    student, teacher = maps(2, 3, 4, 5)
    expected = fitnets_loss(student, teacher)
    for axis in (0, 1, 2, 3):
        torch.testing.assert_close(
            fitnets_loss(student.flip(axis), teacher.flip(axis)), expected)
    torch.testing.assert_close(
        fitnets_loss(student + 1, teacher + 1), expected)
    torch.testing.assert_close(
        fitnets_loss(3 * student, 3 * teacher), 9 * expected)


def test_module_is_the_function():
    student, teacher = maps(2, 3, 4, 5)
    weight = torch.ones(2, 1, 4, 5)
    weight[:, :, 2:] = 0
    assert torch.equal(FitNetsLoss()(student, teacher, weight=weight),
                       fitnets_loss(student, teacher, weight=weight))
    assert FitNetsLoss.channels == 'adapt'
    assert not FitNetsLoss().needs_label
