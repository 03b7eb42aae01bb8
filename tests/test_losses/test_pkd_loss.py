import pytest
import torch

from mmselfkd.losses import PKDLoss, nfd_loss, pkd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def one_less_pearson(a, b, w):
    total = sum(w)
    mean_a, mean_b = (
        sum(x * y for x, y in zip(w, v)) / total for v in (a, b))
    product = sum(x * (y - mean_a) * (z - mean_b)
                  for x, y, z in zip(w, a, b))
    square_a = sum(x * (y - mean_a)**2 for x, y in zip(w, a))
    square_b = sum(x * (y - mean_b)**2 for x, y in zip(w, b))
    return 1 - product / (square_a * square_b)**0.5


def by_loops(student, teacher, weight):
    channels = student.shape[1]
    return sum(one_less_pearson(*(
        x.flatten().tolist() for x in (
            student[:, c], teacher[:, c], weight[:, 0])))
        for c in range(channels)) / channels


def test_hand_value():
    student = torch.tensor([0., 0., 1., 1.]).view(1, 1, 2, 2)
    teacher = torch.tensor([0., 1., 0., 1.]).view(1, 1, 2, 2)
    assert pkd_loss(student, teacher).item() == pytest.approx(1)


def test_equation():
    student, teacher = maps(2, 3, 4, 5)
    expected = by_loops(student, teacher, torch.ones(2, 1, 4, 5))
    assert pkd_loss(student, teacher).item() == pytest.approx(
        expected, abs=1e-7)


def test_weighted_equation():
    student, teacher = maps(2, 3, 4, 5)
    weight = maps(2, 1, 4, 5, seed=1)[0].abs()
    weight[0, 0, 2:] = 0
    assert pkd_loss(student, teacher, weight=weight).item() == pytest.approx(
        by_loops(student, teacher, weight), abs=1e-7)


def test_half_a_squared_difference_of_standardised_maps():
    student, teacher = maps(2, 3, 4, 5)
    torch.testing.assert_close(
        pkd_loss(student, teacher),
        nfd_loss(student, teacher, dims='nhw', eps=1e-12) / 2)


def test_the_value_of_the_official_code():
    """Its deviations are unbiased."""
    student, teacher = maps(2, 3, 4, 5)
    s, t = (((x := maps_.transpose(0, 1).flatten(1))
             - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)
            for maps_ in (student, teacher))
    count = student[:, 0].numel()
    torch.testing.assert_close(
        ((s - t)**2).mean() / 2,
        pkd_loss(student, teacher) * (count - 1) / count,
        rtol=1e-5, atol=0)


def test_shift_and_scale_of_a_channel_have_no_effect():
    student, teacher = maps(2, 3, 4, 5)
    scale = torch.tensor([0.5, 2., 9.]).view(3, 1, 1)
    torch.testing.assert_close(
        pkd_loss(scale * student - 7, teacher), pkd_loss(student, teacher))
    # not image by image
    other = student + torch.tensor([3., 0.]).view(2, 1, 1, 1)
    assert (pkd_loss(student, teacher) - pkd_loss(other, teacher)).abs() > 0.01


def test_a_dead_channel_has_no_gradient():
    student, teacher = maps(2, 3, 4, 5)
    student[:, 1] = 0
    student.requires_grad_()
    pkd_loss(student, teacher).backward()
    assert student.grad[:, 1].abs().max() == 0
    assert student.grad[:, 0].abs().max() > 0


def test_too_few_positions_are_refused():
    one = torch.rand(2, 3, 1, 1)
    with pytest.raises(ValueError, match='2 positions.*finer level'):
        PKDLoss().check(one, one)
    PKDLoss().check(*torch.rand(2, 1, 3, 1, 3))
