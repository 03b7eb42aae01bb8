import math

import pytest
import torch

from mmselfkd.losses import FGDLoss, fgd_loss

WEIGHTS = dict(alpha=0.7, beta=0.3, gamma=0.2, lambda_=0.1, temperature=0.8)


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def objects_of(n=2, height=4, width=5):
    """Two that overlap in the first image, none in the second."""
    objects = torch.zeros(n, 1, height, width, dtype=torch.float64)
    objects[0, 0, :3, :3] = 1 / 9
    objects[0, 0, 2, 2:4] = 1 / 2
    return objects


def softmax(values):
    top = max(values)
    values = [math.exp(value - top) for value in values]
    return [value / sum(values) for value in values]


def attention(image, places, temperature):
    """Of the positions in ``places`` and of the channels, as lists."""
    channels = range(len(image))
    positions = softmax([
        sum(abs(image[c][p]) for c in channels) / len(image) / temperature
        for p in places])
    of_channels = softmax([
        sum(abs(image[c][p]) for p in places) / len(places) / temperature
        for c in channels])
    return (dict(zip(places, (len(places) * a for a in positions))),
            [len(image) * a for a in of_channels])


def by_loops(student, teacher, objects, valid, contexts, *, alpha, beta,
             gamma, lambda_, temperature):
    total = 0.0
    for n in range(len(student)):
        s, t, gc_s, gc_t = (
            x[n].flatten(1).tolist() for x in (student, teacher, *contexts))
        share = objects[n].flatten().tolist()
        places = [p for p, ok in enumerate(valid[n].flatten().tolist()) if ok]
        outside = [p for p in places if share[p] == 0]
        (p_s, c_s), (p_t, c_t) = (
            attention(x, places, temperature) for x in (s, t))
        for p in places:
            mask = alpha * share[p] + (
                beta / len(outside) if share[p] == 0 else 0)
            for c in range(len(s)):
                total += mask * p_t[p] * c_t[c] * (s[c][p] - t[c][p])**2
                total += lambda_ * (gc_s[c][p] - gc_t[c][p])**2
            total += gamma * abs(p_s[p] - p_t[p])
        total += gamma * sum(abs(a - b) for a, b in zip(c_s, c_t))
    return total / len(student)


def scaled(factor):
    return lambda x, valid=None: factor * x


def test_equation():
    student, teacher = maps(2, 3, 4, 5)
    objects = objects_of()
    expected = by_loops(
        student, teacher, objects, torch.ones(2, 1, 4, 5),
        (2 * student, 3 * teacher), **WEIGHTS)
    assert fgd_loss(
        student, teacher, objects=objects, context=(scaled(2), scaled(3)),
        **WEIGHTS).item() == pytest.approx(expected)


def test_equation_with_padding():
    student, teacher = maps(2, 3, 4, 5)
    objects = objects_of()
    weight = torch.ones(2, 1, 4, 5)
    weight[0, :, 3:] = 0
    weight[1, :, :, 2:] = 0
    expected = by_loops(student, teacher, objects, weight,
                        (2 * student, 3 * teacher), **WEIGHTS)
    student[weight.expand_as(student) == 0] = 1e3
    value = fgd_loss(student, teacher, objects=objects, weight=weight,
                     context=(scaled(2), scaled(3)), **WEIGHTS)
    assert value.item() == pytest.approx(expected)


def test_padding_is_the_same_as_none():
    torch.manual_seed(0)
    student, teacher = maps(2, 3, 4, 5)
    loss = FGDLoss(**WEIGHTS)
    loss.build(student, teacher, None)
    loss.double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    expected = loss(student, teacher, objects=objects_of())
    pad = (0, 3, 0, 2)
    student, teacher = (
        torch.nn.functional.pad(x, pad, value=7.) for x in (student, teacher))
    objects, weight = (torch.nn.functional.pad(x, pad) for x in (
        objects_of(), torch.ones(2, 1, 4, 5)))
    student.requires_grad_()
    value = loss(student, teacher, objects=objects, weight=weight)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad[..., 5:].abs().max() == 0
    assert student.grad[..., 4:, :].abs().max() == 0


def test_gradient_is_the_derivative():
    torch.manual_seed(0)
    student, teacher = maps(2, 4, 4, 5)
    loss = FGDLoss(**WEIGHTS)
    loss.build(student, teacher, None)
    loss.double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: loss(s, teacher, objects=objects_of()),
        student.requires_grad_())
    loss(student, teacher, objects=objects_of()).backward()
    assert teacher.grad is None
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters()
               if p is not loss.student_context.mask.bias
               and p is not loss.teacher_context.mask.bias)


def test_the_context_block_by_hand():
    block = FGDLoss()
    one = maps(2, 4, 3, 3)[0].float()
    block.build(one, one, None)
    block = block.student_context
    torch.testing.assert_close(block(one), one)  # at the start
    torch.nn.init.normal_(block.add[-1].weight)
    out = block(one)
    added = out - one
    # the same at each position
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added))
    share = block.mask(one).flatten(1).softmax(1)[:, None]
    context = (one.flatten(2) * share).sum(2)[..., None, None]
    torch.testing.assert_close(added[..., :1, :1], block.add(context))


def test_without_context_there_are_no_blocks():
    loss = FGDLoss(lambda_=0.0)
    student, teacher = maps(2, 3, 4, 5)
    value = loss(student, teacher, objects=objects_of())
    torch.testing.assert_close(
        value, fgd_loss(student, teacher, objects=objects_of(), lambda_=0.0))
    assert not list(loss.parameters())


def test_objects_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'objects.*\(2, 1, 4, 5\).*5, 4'):
        fgd_loss(*maps(2, 3, 4, 5), objects=torch.zeros(2, 1, 5, 4))


@pytest.mark.parametrize('name, value', [
    ('alpha', -1), ('beta', float('nan')), ('gamma', -0.1),
    ('lambda_', -1), ('temperature', 0)])
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        FGDLoss(**{name: value})


def test_half_precision_is_computed_in_float32():
    student, teacher = (x.half() for x in maps(2, 3, 4, 5))
    objects = objects_of()
    torch.testing.assert_close(
        fgd_loss(student, teacher, objects=objects),
        fgd_loss(student.float(), teacher.float(), objects=objects))
