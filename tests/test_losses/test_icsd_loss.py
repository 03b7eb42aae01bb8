import math

import pytest
import torch

from mmselfkd.losses import ICSDLoss, icsd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, 2 * torch.randn(
        shape, generator=generator, dtype=torch.float64)


def naive_matrix(image, temperature):
    """KL(p_i || p_j) of the class maps of (K, H, W), by loops."""
    p = []
    for row in image.flatten(1).tolist():
        e = [math.exp(v / temperature) for v in row]
        p.append([v / sum(e) for v in e])
    return [[sum(a * math.log(a / b) for a, b in zip(p_i, p_j))
             for p_j in p] for p_i in p]


def naive(student, teacher, temperature):
    total = 0.0
    for image_s, image_t in zip(student, teacher):
        rows = zip(naive_matrix(image_s, temperature),
                   naive_matrix(image_t, temperature))
        total += sum((a - b)**2 for row in rows for a, b in zip(*row))
    return total / (len(student) * student.shape[1]**2)


def pairs_of_rows(image):
    """KL(p_i || p_j) row by row, for many classes."""
    log_p = image.double().flatten(1).log_softmax(1)
    return torch.stack([(row.exp() * (row - log_p)).sum(1) for row in log_p])


def test_hand_value():
    # student: p_1 = p_2; teacher: p_1 = (1/2, 1/2), p_2 = (3/4, 1/4)
    teacher = torch.tensor([[0., 0.], [math.log(3), 0.]]).view(1, 2, 2, 1)
    d_12 = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    d_21 = 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    value = icsd_loss(torch.zeros(1, 2, 2, 1), teacher)
    torch.testing.assert_close(value, torch.tensor((d_12**2 + d_21**2) / 4))


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 4, 5, 3), (2, 1, 2, 3),
                                   (3, 2, 1, 1)])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 4.0])
def test_equation(shape, temperature):
    student, teacher = maps(*shape)
    expected = naive(student, teacher, temperature)
    value = icsd_loss(student, teacher, temperature=temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = icsd_loss(
        student.float(), teacher.float(), temperature=temperature)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize('distance', [1.0, 1e-3])
@pytest.mark.parametrize('shape', [(1, 150, 12, 16), (1, 19, 64, 64)])
def test_accuracy_with_many_classes(distance, shape):
    student, teacher = (m.float() for m in maps(*shape))
    student = teacher + distance * student
    expected = (pairs_of_rows(student[0])
                - pairs_of_rows(teacher[0])).square().mean()
    value = icsd_loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


def test_shift_of_a_class_map_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    shift, other = maps(2, 4, 1, 1, seed=1)
    torch.testing.assert_close(
        icsd_loss(student + shift, teacher + other),
        icsd_loss(student, teacher))


def test_same_order_of_positions_in_both_has_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    torch.testing.assert_close(
        icsd_loss(student.flip(3), teacher.flip(3)),
        icsd_loss(student, teacher))
    torch.testing.assert_close(
        icsd_loss(student.mT.contiguous(), teacher.mT.contiguous()),
        icsd_loss(student, teacher))
    # each class map is compared with the others at the same position only
    moved = student.clone()
    moved[:, 0] = student[:, 0].flip(2)
    assert icsd_loss(moved, teacher) != pytest.approx(
        icsd_loss(student, teacher).item(), rel=1e-3)


def test_temperature_divides_the_logits():
    student, teacher = maps(2, 4, 3, 5)
    torch.testing.assert_close(
        icsd_loss(3 * student, 3 * teacher, temperature=3),
        icsd_loss(student, teacher))


def test_enlarged_map_has_the_same_value():
    student, teacher = maps(2, 4, 3, 5)
    big = [m.repeat_interleave(2, 2).repeat_interleave(3, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(icsd_loss(*big), icsd_loss(student, teacher))


@pytest.mark.parametrize('temperature',
                         [0, -1.0, float('inf'), float('nan'), '1'])
def test_bad_temperature(temperature):
    logits = torch.zeros(1, 2, 1, 1)
    for call in (lambda: ICSDLoss(temperature),
                 lambda: icsd_loss(logits, logits, temperature=temperature)):
        with pytest.raises(ValueError) as error:
            call()
        assert 'temperature must be a finite number above 0' in str(
            error.value)
        assert repr(temperature) in str(error.value)


def test_a_temperature_whose_gradient_leaves_float32():
    logits = torch.zeros(1, 2, 2, 2)
    for call in (lambda: ICSDLoss(1e-7),
                 lambda: icsd_loss(logits, logits, temperature=1e-7)):
        with pytest.raises(ValueError, match='temperature'):
            call()
