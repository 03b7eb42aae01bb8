"""What a GPU would complain of or wait for, shown without one.

Tensors on torch's device ``meta`` have a shape and no values: an operation
that mixes devices fails as on a GPU, and so does whatever reads a value on
the host, for which a GPU would have to finish first.
"""
from contextlib import nullcontext

import pytest
import torch
from every_loss import CLASSES, made

from mmselfkd import losses
from mmselfkd.distillation.agreement import class_agreement, linear_cka
from mmselfkd.distillation.level_matching import resize_like

OPTIONS = [
    losses.PairwiseLoss(pool=None), losses.PairwiseLoss(pool_mode='max'),
    losses.PairwiseLoss(connection_range=2),
    losses.KDLoss(adjust=dict(type='ProbabilityShift')),
    losses.KDLoss(adjust=dict(type='LabelSmoothing')),
    losses.KDLoss(dynamic_temperature=dict(type='FLSW')),
    losses.KDLoss(dynamic_temperature=dict(type='CWSM')),
    losses.KDLoss(ignore_index=None), losses.KDLoss(activation='sigmoid'),
    losses.KDLoss(groups=7), losses.ValueLoss('scale_invariant')]


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """It knows no such device; what it does has tests of its own."""
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())


def on_meta(*shape):
    return torch.rand(shape, device='meta')


def test_what_the_device_shows():
    with pytest.raises(RuntimeError, match='device'):
        on_meta(3) + torch.ones(3)
    with pytest.raises(RuntimeError):
        bool(on_meta(1) > 0)


@pytest.mark.parametrize('loss, weighted', [
    pytest.param(loss, weighted, id=f'{type(loss).__name__}-{weighted}')
    for loss in [made(cls) for cls in CLASSES] + OPTIONS
    for weighted in (False, True)[:1 + loss.takes_weight]])
def test_no_value_is_read_and_no_device_mixed(loss, weighted):
    student, teacher = (on_meta(2, 140, 12, 16) for _ in range(2))
    student.requires_grad_()
    extra = dict(weight=on_meta(2, 1, 12, 16)) if weighted else {}
    image = on_meta(2, 3, 24, 32)
    loss.build(student, teacher, image)
    loss.to('meta')
    if loss.needs_image:
        extra['image'] = image
    if loss.needs_classifier:
        extra['classifier'] = torch.nn.Conv2d(140, 5, 1, device='meta')
    if loss.needs_objects:
        extra['objects'] = on_meta(2, 1, 12, 16)
    if loss.needs_regions:
        extra['regions'] = on_meta(2, 2, 12, 16)
    if loss.needs_label:
        extra['label'] = torch.zeros(
            2, 24, 32, dtype=torch.long, device='meta')
    value = loss(student, teacher, **extra)
    value.backward()
    assert value.device == student.grad.device == student.device
    if loss.is_adversarial:
        loss.discriminator_loss(student, teacher, image=image).backward()


def test_channels_that_differ():
    for reach in (None, 2):
        student = on_meta(2, 8, 6, 7).requires_grad_()
        value = losses.pairwise_loss(
            student, on_meta(2, 5, 6, 7), pool=1, connection_range=reach)
        value.backward()
        assert value.device == student.grad.device == student.device


def test_alignment_and_agreement():
    student, teacher = on_meta(2, 5, 6, 7), on_meta(2, 5, 12, 14)
    teacher = resize_like(teacher, student)
    for measure in (class_agreement, linear_cka):
        assert measure(student, teacher).device == student.device
