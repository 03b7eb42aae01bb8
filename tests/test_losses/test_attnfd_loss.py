import math

import pytest
import torch
import torch.nn.functional as F

from mmselfkd.losses import AttnFDLoss, attnfd_loss
from mmselfkd.losses.attnfd_loss import Attention, plain_attention


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def naive(student, teacher, norm, weight=None):
    """By loops; what has the length 1 is an image or the batch."""
    def unit(x):
        x = x if weight is None else x * weight.sqrt()
        groups = x if norm == 'image' else [x]
        return [v / math.sqrt(sum(u * u for u in group.flatten().tolist()))
                for group in groups for v in group.flatten().tolist()]

    return sum((a - b)**2 for a, b in zip(
        unit(student), unit(teacher))) / len(student)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_hand_value():
    # (3, 4) / 5 and (0, 1)
    student = torch.tensor([3., 4.]).view(1, 2, 1, 1)
    teacher = torch.tensor([0., 7.]).view(1, 2, 1, 1)
    assert attnfd_loss(student, teacher).item() == pytest.approx(
        0.6**2 + 0.2**2)


@pytest.mark.parametrize('norm', ['image', 'batch'])
@pytest.mark.parametrize('shape', [(1, 3, 2, 4), (3, 2, 3, 3)])
def test_equation(norm, shape):
    student, teacher = maps(*shape)
    assert attnfd_loss(student, teacher, norm=norm).item() == pytest.approx(
        naive(student, teacher, norm), rel=1e-9)
    weight = maps(shape[0], 1, *shape[2:], seed=1)[0].abs()
    weight = weight / weight.sum((1, 2, 3), keepdim=True)
    assert attnfd_loss(
        student, teacher, norm=norm, weight=weight).item() == pytest.approx(
            naive(student, teacher, norm, weight), rel=1e-9)


def test_batch_norm_is_a_share_of_the_other():
    student, teacher = maps(1, 3, 4, 5)
    both = [x.repeat(2, 1, 1, 1) for x in (student, teacher)]
    expected = attnfd_loss(student, teacher)
    torch.testing.assert_close(attnfd_loss(*both), expected)
    torch.testing.assert_close(
        attnfd_loss(*both, norm='batch'), expected / 2)
    assert AttnFDLoss().norm == 'image'


def test_scale_of_an_image_has_no_effect():
    student, teacher = maps(2, 3, 4, 5)
    scale = torch.tensor([2., 0.1]).view(2, 1, 1, 1)
    torch.testing.assert_close(
        attnfd_loss(scale * student, 7 * teacher),
        attnfd_loss(student, teacher))
    assert attnfd_loss(student, -student).item() == pytest.approx(4)
    big = [m.repeat_interleave(2, 2).repeat_interleave(3, 3)
           for m in (student, teacher)]
    torch.testing.assert_close(
        attnfd_loss(*big), attnfd_loss(student, teacher))


def test_plain_attention_by_loops():
    image = maps(1, 2, 2, 3)[0]
    out = plain_attention(image)[0]
    gated = [[v * sigmoid(sum(c) / len(c) + max(c)) for v in c]
             for c in image[0].flatten(1).tolist()]
    for p in range(6):
        column = [c[p] for c in gated]
        gate = sigmoid(max(column) + sum(column) / len(column))
        assert out.flatten(1)[:, p].tolist() == pytest.approx(
            [v * gate for v in column])


@torch.no_grad()
def test_attention_by_hand():
    """Of constant weights: every gate is known."""
    attention = Attention(2, reduction=1).double()
    for parameter in attention.layers.parameters():
        parameter.fill_(0.5)
    image = maps(2, 2, 3, 4)[0]
    gates = []
    for n in range(2):
        total = 0.0
        for pooled in (image[n].mean((1, 2)), image[n].amax((1, 2))):
            hidden = max(0.0, 0.5 * pooled.sum().item() + 0.5)
            total += 2 * 0.5 * hidden + 0.5
        gates.append(sigmoid(total))
    gated = image * torch.tensor(gates).view(2, 1, 1, 1)
    seen = torch.cat([gated.amax(1, keepdim=True),
                      gated.mean(1, keepdim=True)], dim=1)
    score = F.conv2d(F.pad(seen, (3, 3, 3, 3)), attention.conv.weight)
    score = (score - score.mean()) / (
        score.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(attention(image), gated * score.sigmoid())


def built(**options):
    loss = AttnFDLoss(**options)
    loss.build(torch.zeros(2, 3, 1, 1), torch.zeros(2, 5, 1, 1), None)
    return loss.double()


def pair(height=4, width=5):
    student, other = maps(2, 5, height, width)
    return student[:, :3], other


def test_module_is_the_function_on_refined_maps():
    student, teacher = pair()
    loss = built()
    refined = loss.connector_norm(loss.connector(loss.attention(student)))
    torch.testing.assert_close(
        loss(student, teacher),
        attnfd_loss(refined, plain_attention(teacher)))
    loss.teacher_attention = False
    torch.testing.assert_close(
        loss(student, teacher), attnfd_loss(refined, teacher))
    loss.norm = 'batch'
    torch.testing.assert_close(
        loss(student, teacher), attnfd_loss(refined, teacher, norm='batch'))


def test_gradient_for_student_and_modules_only():
    student, teacher = pair()
    loss = built(reduction=1)  # so that some of its units are not dead
    student.requires_grad_(), teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0
               for p in loss.parameters())
    assert torch.autograd.gradcheck(
        lambda s: loss(s, teacher.detach()), student)


def test_padding_is_not_compared_and_not_seen_by_the_gates():
    student, teacher = pair()
    weight = torch.ones(2, 1, 4, 5)
    weight[:, :, 2:] = 0
    values = []
    for padding in (0.0, 7.0, -50.0):
        s, t = student.clone(), teacher.clone()
        s[:, :, 2:], t[:, :, 2:] = padding, 2 * padding
        s.requires_grad_()
        torch.manual_seed(0)
        value = built()(s, t, weight=weight)
        value.backward()
        assert s.grad[:, :, 2:].abs().max() == 0
        values.append(value)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
    t = teacher.clone()
    t[:, :, 2:] = 99
    valid = weight > 0
    torch.testing.assert_close(
        plain_attention(t, valid)[:, :, :2], plain_attention(
            teacher[:, :, :2]))
    value = built()(student, teacher, weight=torch.zeros(2, 1, 4, 5))
    assert value == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_float32(dtype):
    loss = built().float()
    student, teacher = (x.to(dtype) for x in pair())
    student.requires_grad_()
    expected = loss(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


@pytest.mark.parametrize('options', [
    dict(norm='pixel'), dict(reduction=0), dict(teacher_attention=1)])
def test_bad_argument(options):
    name, = options
    with pytest.raises(ValueError, match=name):
        AttnFDLoss(**options)


def test_bad_maps():
    student, teacher = pair()
    with pytest.raises(ValueError, match='same N, H and W'):
        AttnFDLoss()(student, teacher[:, :, :2])
    with pytest.raises(ValueError, match='weight must have shape'):
        AttnFDLoss()(student, teacher, weight=torch.ones(2, 4, 5))
