"""Extreme but legal maps and arguments: every loss there is stays finite."""
import itertools
from contextlib import nullcontext

import pytest
import torch
from every_loss import CLASSES, extra, made

from mmselfkd import losses
from mmselfkd.checks import LEAST, MOST

HUGE = 10**400  # an integer that no float holds


def maps():
    noise = torch.randn(
        2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    return dict(
        noise=noise, constant=torch.full_like(noise, 0.1),
        huge=1e4 * noise.clamp(-1, 1), huge_constant=0 * noise - 1e4,
        zero=0 * noise)


def values(loss, student, teacher):
    """What the loss gives; of an adversarial one both players' terms."""
    image = torch.ones(2, 3, 12, 10)
    yield loss(student, teacher, **extra(loss, student))
    if loss.is_adversarial:
        yield loss.discriminator_loss(student, teacher, image=image)


def assert_finite(loss, student, teacher, why=None):
    """Values and gradients; but no float16 holds one above 65504."""
    student = student.clone().requires_grad_()
    for value in values(loss, student, teacher):
        assert value.dtype == torch.float32, why
        value.backward()
        assert value.isfinite(), why
    if student.dtype == torch.float16 and student.grad.isinf().any():
        exact = student.detach().float().requires_grad_()
        loss(exact, teacher, **extra(loss, exact)).backward()
        assert exact.grad.isfinite().all() and exact.grad.abs().max() > 65504
        assert isinstance(  # quadratic in the scores
            loss, (losses.FGDLoss, losses.ICSDLoss, losses.SRDLoss))
    else:
        assert student.grad.isfinite().all(), why
    for parameter in loss.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), why


@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('cls', CLASSES)
def test_constant_huge_and_zero_maps(cls, precision):
    """In half precision as a student under autocast gives them."""
    dtype = getattr(torch, precision)
    context = nullcontext() if dtype is torch.float32 else torch.autocast(
        'cpu', dtype=dtype)
    loss = made(cls)
    with context:
        for (one, s), (other, t) in itertools.product(
                maps().items(), list(maps().items())[::2]):
            assert_finite(loss, s.to(dtype), t.to(dtype), (one, other))


@pytest.mark.parametrize('name, argument, least, most', [
    ('KDLoss', 'temperature', LEAST, MOST),
    ('ICSDLoss', 'temperature', 1e-6, MOST),
    ('MixSKDLogitLoss', 'temperature', LEAST, MOST),
    ('NFDLoss', 'eps', LEAST, MOST),
    ('ATLoss', 'p', 1, MOST),
    ('HolisticLoss', 'gradient_penalty', 0, MOST)])
def test_arguments_that_leave_float32(name, argument, least, most):
    """Refused beyond the limits; at them every map is finite."""
    cls = getattr(losses, name)
    beyond = [10 * most, 1e30, 1e300, HUGE, -HUGE]
    if least:
        beyond += [least / 10, 1e-45, 1e-300]
    for value in beyond:
        with pytest.raises(ValueError, match=f'{argument} must be a finite'):
            cls(**{argument: value})
    for value in (least, most):
        for s, t in itertools.permutations(
                list(maps().values())[::2], 2):
            assert_finite(cls(**{argument: value}), s, t, value)


@pytest.mark.parametrize('kind, argument', [
    ('FLSW', 'beta'), ('FLSW', 'gamma'), ('CWSM', 'beta'),
    ('CWSM', 'minimum')])
@pytest.mark.parametrize('value', [1e30, HUGE, float('inf')])
def test_dynamic_temperatures_that_leave_float32(kind, argument, value):
    with pytest.raises(ValueError, match=f'{argument} must be'):
        losses.KDLoss(dynamic_temperature={'type': kind, argument: value})
