import math

import pytest
import torch
import torch.nn.functional as F

from mmselfkd.losses import IFVDLoss, ifvd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def labels(*shape, classes=3, ignored=0.2):
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(classes, shape, generator=generator)
    label[torch.rand(shape, generator=generator) < ignored] = 255
    return label


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b))


def similarities(image, label):
    """Of each pixel to the mean of its class, None where it has none."""
    rows = image.flatten(1).T.tolist()
    found = []
    for row, k in zip(rows, label.flatten().tolist()):
        same = [r for r, other in zip(rows, label.flatten().tolist())
                if other == k]
        mean = [sum(column) / len(same) for column in zip(*same)]
        found.append(None if k in (255, -1) else cosine(row, mean))
    return found


def naive(student, teacher, label, weight=None):
    total = norm = 0.0
    for n in range(len(student)):
        w = [1.0] * label[n].numel() if weight is None else (
            weight[n].flatten().tolist())
        for a, b, u in zip(similarities(student[n], label[n]),
                           similarities(teacher[n], label[n]), w):
            if a is not None:
                total += u * (a - b)**2
                norm += u
    return total / norm


def test_hand_value():
    # student: orthogonal pixels, each 45 degrees from their mean
    student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
    label = torch.zeros(1, 1, 2).long()
    value = ifvd_loss(student, torch.ones(1, 3, 1, 2), label=label)
    assert value.item() == pytest.approx((1 - math.sqrt(0.5))**2)


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (3, 4, 3, 2)])
@pytest.mark.parametrize('num_classes', [None, 3, 7])
def test_equation(shape, num_classes):
    student, teacher = maps(*shape)
    teacher = torch.cat([teacher, student.flip(1)], dim=1)  # more channels
    label = labels(shape[0], *shape[2:])
    value = ifvd_loss(student, teacher, label=label, num_classes=num_classes)
    assert value.item() == pytest.approx(
        naive(student, teacher, label), rel=1e-9)
    weight = maps(shape[0], 1, *shape[2:], seed=1)[0].abs()
    value = ifvd_loss(student, teacher, label=label, weight=weight)
    assert value.item() == pytest.approx(
        naive(student, teacher, label, weight), rel=1e-9)


def test_means_are_of_one_image():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5, ignored=0)
    single = [ifvd_loss(student[n:n + 1], teacher[n:n + 1],
                        label=label[n:n + 1]) for n in range(2)]
    torch.testing.assert_close(
        ifvd_loss(student, teacher, label=label), sum(single) / 2)


def test_gradient_reaches_the_student_and_goes_through_the_means():
    student, teacher = maps(1, 3, 3, 3)
    label = labels(1, 3, 3)
    label[0, 1] = 255
    student.requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: ifvd_loss(s, teacher.detach(), label=label), student)
    ifvd_loss(student, teacher, label=label).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0
    ignored = (label == 255)[:, None].expand_as(student)
    assert student.grad[ignored].abs().max() == 0


def test_scale_of_a_map_and_turned_channels_have_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5)
    expected = ifvd_loss(student, teacher, label=label)
    turn, _ = torch.linalg.qr(maps(4, 4, seed=1)[0])
    turned = torch.einsum('dc,nchw->ndhw', turn, 3 * student)
    torch.testing.assert_close(
        ifvd_loss(turned, 0.1 * teacher, label=label), expected)
    for axis in (2, 3):
        torch.testing.assert_close(
            ifvd_loss(student.flip(axis), teacher.flip(axis),
                      label=label.flip(axis - 1)), expected)


def test_names_of_the_classes_have_no_effect():
    student, teacher = maps(2, 4, 3, 5)
    label = labels(2, 3, 5)
    other = label.where(label == 255, (label + 1) % 3)
    torch.testing.assert_close(
        ifvd_loss(student, teacher, label=other),
        ifvd_loss(student, teacher, label=label))


def test_padding_is_the_same_as_none():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5)
    expected = ifvd_loss(student, teacher, label=label)
    weight = F.pad(torch.ones(2, 1, 4, 5), (0, 3, 0, 2))
    wide = F.pad(label, (0, 3, 0, 2), value=1)
    for padding in (0.0, 7.0, -50.0):
        padded = [F.pad(x, (0, 3, 0, 2), value=padding * (i + 1))
                  for i, x in enumerate((student, teacher))]
        padded[0].requires_grad_()
        value = ifvd_loss(*padded, label=wide, weight=weight)
        torch.testing.assert_close(value, expected)
        value.backward()
        assert padded[0].grad[..., 5:].abs().max() == 0
    torch.testing.assert_close(
        ifvd_loss(student, teacher, label=label,
                  weight=torch.full((2, 1, 4, 5), 3.)), expected)


def test_what_is_no_class_takes_no_part():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5)
    expected = ifvd_loss(student, teacher, label=label)
    # the background of boxes, and a class that the head does not know
    for value, options in ((-1, {}), (7, dict(num_classes=3)),
                           (9, dict(ignore_index=9))):
        other = label.masked_fill(label == 255, value)
        torch.testing.assert_close(
            ifvd_loss(student, teacher, label=other, **options), expected)
    all_classes = label.masked_fill(label == 255, 2)
    assert ifvd_loss(student, teacher, label=all_classes) != expected


def test_labels_are_resized():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5)
    large = label.repeat_interleave(3, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(
        ifvd_loss(student, teacher, label=large),
        ifvd_loss(student, teacher, label=label))


def test_without_a_class_the_value_is_0():
    student, teacher = maps(2, 3, 4, 5)
    student.requires_grad_()
    for label in (255, -1):
        value = ifvd_loss(
            student, teacher, label=torch.full((2, 4, 5), label))
        value.backward()
        assert value == 0 and student.grad.abs().max() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_float32(dtype):
    student, teacher = (x.to(dtype) for x in maps(2, 3, 4, 5))
    label = labels(2, 4, 5)
    student.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = ifvd_loss(student, teacher, label=label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value, ifvd_loss(student.float(), teacher.float(), label=label))
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


def test_module_is_the_function():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5)
    loss = IFVDLoss()
    expected = ifvd_loss(student, teacher, label=label)
    assert torch.equal(loss(student, teacher, label=label), expected)
    loss.ignore_index, loss.num_classes = 0, 2  # as a run sets them
    torch.testing.assert_close(
        loss(student, teacher, label=label),
        ifvd_loss(student, teacher,
                  label=label.masked_fill(label != 1, 255)))


def test_bad_arguments():
    student, teacher = maps(2, 3, 4, 5)
    label = labels(2, 4, 5)
    with pytest.raises(ValueError, match='label must'):
        IFVDLoss()(student, teacher)
    for options in (dict(num_classes=0), dict(ignore_index='none')):
        with pytest.raises(ValueError, match=next(iter(options))):
            IFVDLoss(**options)
        with pytest.raises(ValueError, match=next(iter(options))):
            ifvd_loss(student, teacher, label=label, **options)
    with pytest.raises(ValueError, match='the same N, H and W'):
        ifvd_loss(student, teacher[:, :, :2], label=label)
    with pytest.raises(ValueError, match='weight must have shape'):
        ifvd_loss(student, teacher, label=label, weight=torch.ones(2, 4, 5))
    with pytest.raises(TypeError, match='integers'):
        ifvd_loss(student, teacher, label=label.float())
