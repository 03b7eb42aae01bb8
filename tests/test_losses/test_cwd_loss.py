import math

import pytest
import torch

from mmselfkd.losses import CWDLoss, cwd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def naive(student, teacher, temperature, weight=None):
    """By loops; a position counts as often as it weighs."""
    total = 0.0
    for n in range(len(student)):
        w = [1.0] * student[n, 0].numel() if weight is None else (
            weight[n].flatten().tolist())
        for row_s, row_t in zip(student[n].flatten(1).tolist(),
                                teacher[n].flatten(1).tolist()):
            p, q = ([a * math.exp(v / temperature) for a, v in zip(w, row)]
                    for row in (row_t, row_s))
            p, q = ([v / sum(row) for v in row] for row in (p, q))
            total += sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)
    return temperature**2 * total / (student.shape[0] * student.shape[1])


def test_hand_value():
    # teacher (3/4, 1/4), student (1/2, 1/2), at T = 2 and so 4 times
    teacher = torch.tensor([2 * math.log(3), 0.]).view(1, 1, 2, 1)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    value = cwd_loss(torch.zeros(1, 1, 2, 1), teacher, temperature=2.0)
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 4, 1, 3), (3, 1, 2, 2)])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 4.0])
def test_equation(shape, temperature):
    student, teacher = maps(*shape)
    expected = naive(student, teacher, temperature)
    value = cwd_loss(student, teacher, temperature=temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    weight = maps(shape[0], 1, *shape[2:], seed=1)[0].abs()
    weight[0, 0, 0, 0] = 0
    assert cwd_loss(
        student, teacher, weight=weight, temperature=temperature
    ).item() == pytest.approx(naive(student, teacher, temperature, weight))


def test_default_temperature_is_the_papers():
    student, teacher = maps(2, 3, 4, 5)
    assert torch.equal(CWDLoss()(student, teacher),
                       cwd_loss(student, teacher, temperature=4.0))


def test_shift_of_a_channel_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    shift, other = maps(2, 4, 1, 1, seed=1)
    torch.testing.assert_close(
        cwd_loss(student + shift, teacher + other),
        cwd_loss(student, teacher))


def test_same_order_of_positions_and_of_channels_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    expected = cwd_loss(student, teacher)
    for axis in (1, 2, 3):
        torch.testing.assert_close(
            cwd_loss(student.flip(axis), teacher.flip(axis)), expected)
        assert cwd_loss(student.flip(axis), teacher) != pytest.approx(
            expected.item(), rel=1e-3)


def test_enlarged_map_has_the_same_value():
    student, teacher = maps(2, 4, 3, 5)
    big = [m.repeat_interleave(2, 2).repeat_interleave(3, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(cwd_loss(*big), cwd_loss(student, teacher))


def test_large_differences_do_not_underflow():
    student = torch.tensor([0., 1e3]).view(1, 1, 1, 2).requires_grad_()
    value = cwd_loss(student, student.detach().flip(3), temperature=1.0)
    value.backward()
    assert value.item() == pytest.approx(1e3)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([-1., 1.]))


def test_ignored_pixels_weigh_nothing_where_asked():
    student, teacher = maps(2, 3, 4, 6)
    label = torch.zeros(2, 8, 12).long()
    label[0, :, 6:] = 255
    weight = torch.ones(2, 1, 4, 6)
    weight[0, :, :, 3:] = 0
    expected = cwd_loss(student, teacher, weight=weight)
    loss = CWDLoss(ignore_index='head')
    assert loss.needs_label and not CWDLoss().needs_label
    torch.testing.assert_close(loss(student, teacher, label=label), expected)
    assert CWDLoss()(student, teacher, label=label) != expected
    # and both together
    weight[1, :, 2:] = 0
    torch.testing.assert_close(
        loss(student, teacher, label=label, weight=weight),
        cwd_loss(student, teacher, weight=weight))
    torch.testing.assert_close(
        CWDLoss(ignore_index=7)(student, teacher, label=label),
        cwd_loss(student, teacher))


def test_an_image_without_labels_is_0_and_counts():
    student, teacher = maps(2, 3, 4, 6)
    label = torch.full((2, 4, 6), 255)
    label[0] = 0
    student.requires_grad_()
    value = cwd_loss(student, teacher, label=label, ignore_index=255)
    torch.testing.assert_close(value, cwd_loss(student[:1], teacher[:1]) / 2)
    value.backward()
    assert student.grad[1].abs().max() == 0


@pytest.mark.parametrize('temperature',
                         [0, -1.0, float('inf'), float('nan'), '1'])
def test_bad_temperature(temperature):
    logits = torch.zeros(1, 2, 1, 1)
    for call in (lambda: CWDLoss(temperature),
                 lambda: cwd_loss(logits, logits, temperature=temperature)):
        with pytest.raises(ValueError, match='temperature must be a finite'):
            call()


def test_bad_ignore_index():
    with pytest.raises(ValueError, match='ignore_index'):
        CWDLoss(ignore_index='none')
