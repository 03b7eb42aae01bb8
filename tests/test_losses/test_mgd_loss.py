import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmselfkd.losses import MGDLoss, mgd_loss
from mmselfkd.losses.mgd_loss import Generator


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def built(channels=3, **options):
    loss = MGDLoss(**options)
    loss.build(*torch.zeros(2, 1, channels, 1, 1), None)
    return loss.double()


def convolved(maps, conv):
    """A 3x3 convolution with a border of zeros, by loops."""
    n, _, h, w = maps.shape
    out = torch.empty(n, conv.out_channels, h, w, dtype=maps.dtype)
    padded = F.pad(maps, (1, 1, 1, 1))
    for y in range(h):
        for x in range(w):
            patch = padded[:, None, :, y:y + 3, x:x + 3]
            out[..., y, x] = (patch * conv.weight).sum((2, 3, 4)) + conv.bias
    return out


def test_hand_value():
    # of (1, 3) the second is masked: (1 - 2)^2 and (0 - 5)^2
    student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
    teacher = torch.tensor([2., 5.]).view(1, 1, 1, 2)
    mask = torch.tensor([1., 0.]).view(1, 1, 1, 2)
    for reduction, expected in (('mean', 13.), ('sum', 26.)):
        assert mgd_loss(
            student, teacher, generator=nn.Identity(), mask=mask,
            reduction=reduction).item() == expected


@torch.no_grad()
def test_equation():
    student, teacher = maps(2, 3, 4, 5)
    mask = (maps(2, 1, 4, 5, seed=1)[0] > 0).double()
    net = Generator(3).double()
    made = convolved(
        convolved(student * mask, net.first).clamp(min=0), net.second)
    squares = [(a - b)**2 for a, b in zip(made.flatten().tolist(),
                                          teacher.flatten().tolist())]
    value = mgd_loss(student, teacher, generator=net, mask=mask)
    assert value.item() == pytest.approx(sum(squares) / len(squares))
    # as published: per image
    value = mgd_loss(
        student, teacher, generator=net, mask=mask, reduction='sum')
    assert value.item() == pytest.approx(sum(squares) / 2)


@pytest.mark.parametrize('ratio', [0.0, 0.65, 1.0])
def test_share_of_masked_positions(ratio, monkeypatch):
    seen = []
    loss = built(mask_ratio=ratio)
    monkeypatch.setattr(
        loss.generator, 'forward', lambda maps: seen.append(maps) or maps)
    ones = torch.ones(4, 3, 40, 40).double()
    loss(ones, ones), loss(ones, ones)
    for masked in seen:
        assert set(masked.unique().tolist()) <= {0., 1.}
        assert torch.equal(masked[:, :1].expand_as(masked), masked)
        assert masked.mean().item() == pytest.approx(1 - ratio, abs=0.03)
    if 0 < ratio < 1:  # another mask in each call and image
        assert not torch.equal(*seen)
        assert not torch.equal(seen[0][0], seen[0][1])


def test_default_ratio_is_the_papers():
    assert MGDLoss().mask_ratio == 0.75


def test_gradient_for_student_and_generator_only():
    loss = built()
    student, teacher = maps(2, 3, 4, 5)
    student.requires_grad_(), teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    mask = torch.ones(2, 1, 4, 5)
    assert torch.autograd.gradcheck(
        lambda s: mgd_loss(s, teacher.detach(), generator=loss.generator,
                           mask=mask, reduction='sum'), student)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_padding_is_the_same_as_none(reduction):
    loss = built(mask_ratio=0.0, reduction=reduction)
    student, teacher = maps(2, 3, 4, 5)
    expected = loss(student, teacher)
    weight = F.pad(torch.ones(2, 1, 4, 5), (0, 3, 0, 2))
    torch.testing.assert_close(
        loss(student, teacher, weight=torch.full((2, 1, 4, 5), 3.)), expected)
    for padding in (0.0, 7.0, -50.0):
        padded = [F.pad(x, (0, 3, 0, 2), value=padding * (i + 1))
                  for i, x in enumerate((student, teacher))]
        padded[0].requires_grad_()
        value = loss(*padded, weight=weight)
        torch.testing.assert_close(value, expected)
        value.backward()
        assert padded[0].grad[..., 5:].abs().max() == 0
        assert padded[0].grad[..., 4:, :].abs().max() == 0
    value = loss(student, teacher, weight=torch.zeros(2, 1, 4, 5))
    assert value == 0


def test_foreground_weights_the_mean():
    loss = built(mask_ratio=0.0)
    student, teacher = maps(2, 3, 4, 5)
    weight = maps(2, 1, 4, 5, seed=1)[0].abs()
    squares = (loss.generator(student) - teacher).square()
    expected = sum(
        (squares[n, c] * weight[n, 0]).sum() / weight[n].sum()
        for n in range(2) for c in range(3)) / 6
    torch.testing.assert_close(
        loss(student, teacher, weight=weight), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_float32(dtype):
    loss = built(mask_ratio=0.0).float()
    student, teacher = (x.to(dtype) for x in maps(2, 3, 4, 5))
    student.requires_grad_()
    expected = loss(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


@pytest.mark.parametrize('options', [
    dict(mask_ratio=1.5), dict(mask_ratio=-0.1), dict(reduction='max')])
def test_bad_argument(options):
    name, = options
    with pytest.raises(ValueError, match=name):
        MGDLoss(**options)


def test_bad_maps():
    student, teacher = maps(2, 3, 4, 5)
    with pytest.raises(ValueError, match='same shape'):
        MGDLoss()(student, teacher[:, :2])
    with pytest.raises(ValueError, match='mask must have shape'):
        mgd_loss(student, teacher, generator=nn.Identity(),
                 mask=torch.ones(2, 4, 5))
    with pytest.raises(ValueError, match='weight must have shape'):
        MGDLoss()(student, teacher, weight=torch.ones(2, 4, 5))
