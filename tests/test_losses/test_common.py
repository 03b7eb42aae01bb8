"""What all losses of the package have in common."""
import subprocess
import sys

import pytest
import torch

from mmselfkd.losses import (
    ATLoss,
    CIRKDMiniBatchLoss,
    CWDLoss,
    DISTLoss,
    FitNetsLoss,
    ICSDLoss,
    KDLoss,
    NFDLoss,
    PairwiseLoss,
    PKDLoss,
    ValueLoss,
    cwd_loss,
    dist_loss,
    icsd_loss,
    kd_loss,
    nfd_loss,
    pairwise_loss,
)
from mmselfkd.losses._maps import pooled, resize_label

LOSSES = [
    KDLoss(2.0),
    PairwiseLoss(),
    PairwiseLoss(pool=None, connection_range=1),
    NFDLoss(),
    NFDLoss('c'),
    ICSDLoss(2.0),
    ATLoss(),
    ATLoss(p=3, reduction='sum'),
    ValueLoss(),
    CWDLoss(),
    DISTLoss(),
    FitNetsLoss(),
    PKDLoss(),
    CIRKDMiniBatchLoss(),
    CIRKDMiniBatchLoss(pool=2),
]
IDS = ['kd', 'pair', 'pair-local', 'nfd', 'nfd-c', 'icsd', 'at', 'at-sum',
       'value', 'cwd', 'dist', 'fitnets', 'pkd', 'cirkd',
       'cirkd-pool']
every_loss = pytest.mark.parametrize('loss', LOSSES, ids=IDS)


def maps(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(shape, generator=generator)
    return student, scale * torch.randn(shape, generator=generator)


def test_patches_at_the_border_are_smaller():
    level = torch.arange(6.).view(1, 1, 2, 3)  # 0 1 2, 3 4 5
    assert pooled(level, None) is pooled(level, 1) is level
    assert pooled(level, 2).flatten().tolist() == [2, 3.5]
    assert pooled(level, 2, 'max').flatten().tolist() == [4, 5]


@every_loss
def test_gradient_for_the_student_only(loss):
    student, teacher = maps(2, 4, 5, 7)
    student.requires_grad_(), teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.shape == student.shape
    assert student.grad.abs().sum() > 0


@every_loss
@pytest.mark.parametrize('shape', [(1, 2, 4, 3), (2, 3, 2, 2), (1, 2, 1, 3)])
def test_gradient_is_the_derivative(loss, shape):
    student, teacher = maps(*shape)
    student = student.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.double()),
                                    student)


@every_loss
def test_zero_and_minimum_at_equality(loss):
    student, teacher = maps(2, 4, 6, 5)
    same = teacher.clone().requires_grad_()
    value = loss(same, teacher)
    value.backward()
    # 1 - correlation
    rounding = 1e-6 if isinstance(loss, (DISTLoss, PKDLoss)) else 0
    assert abs(value.item()) <= rounding
    assert same.grad.abs().max() < 1e-6
    assert loss(student, teacher) > 1e-4


@every_loss
def test_does_not_depend_on_the_batch_size(loss):
    student, teacher = maps(2, 4, 6, 5)
    torch.testing.assert_close(
        loss(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)),
        loss(student, teacher))


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    student, teacher = (m.to(dtype) for m in maps(2, 4, 6, 5))
    student.requires_grad_()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()))
    value.backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


@every_loss
def test_float64_stays_float64(loss):
    student, teacher = maps(1, 4, 6, 5)
    assert loss(student.double(), teacher.double()).dtype == torch.float64


@every_loss
def test_teacher_of_another_type(loss):
    student, teacher = maps(1, 4, 6, 5)
    torch.testing.assert_close(
        loss(student, teacher.half()), loss(student, teacher.half().float()))


@every_loss
def test_autocast_changes_nothing(loss):
    student, teacher = maps(2, 4, 6, 5)
    expected = loss(student, teacher)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(
            loss(student, teacher), expected, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_maps_stay_finite(loss, dtype):
    large, other = maps(2, 4, 6, 5, scale=1e4)
    tiny, _ = maps(2, 4, 6, 5, scale=1e-4)
    zero = torch.zeros(2, 4, 6, 5)
    cases = [(large, other), (zero, other), (other, zero), (zero, zero),
             (tiny, large), (zero + 1e4, zero - 1e4), (zero + 0.1, tiny)]
    for student, teacher in cases:
        student = student.to(dtype).requires_grad_()
        value = loss(student, teacher.to(dtype))
        value.backward()
        assert value.isfinite() and value > -1e-6
        assert student.grad.isfinite().all()


@every_loss
def test_smallest_map(loss):
    student, teacher = maps(1, 1, 1, 1)
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize('student, teacher', [
    ((2, 4, 6, 5), (2, 4, 5, 6)),
    ((2, 4, 6, 5), (1, 4, 6, 5)),
    ((4, 6, 5), (4, 6, 5)),
    ((0, 4, 6, 5), (0, 4, 6, 5)),
])
def test_error_shows_both_shapes(loss, student, teacher):
    with pytest.raises(ValueError) as error:
        loss(torch.zeros(student), torch.zeros(teacher))
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)


@every_loss
def test_unequal_channels(loss):
    student, teacher = torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4)
    if loss.channels == 'any':
        assert loss(student, teacher).isfinite()
    else:
        with pytest.raises(ValueError, match=r'\(1, 2, 4, 4\).*\(1, 3, 4'):
            loss(student, teacher)


@every_loss
def test_integer_maps_are_refused(loss):
    student, teacher = maps(1, 4, 6, 5)
    with pytest.raises(TypeError, match='student.*int64'):
        loss(student.long(), teacher)
    with pytest.raises(TypeError, match='teacher.*int64'):
        loss(student, teacher.long())


@pytest.mark.parametrize('module, function, options', [
    (KDLoss, kd_loss, dict(temperature=3.0, ignore_index=None)),
    (PairwiseLoss, pairwise_loss,
     dict(pool=3, pool_mode='max', connection_range=1)),
    (NFDLoss, nfd_loss, dict(dims='chw', eps=0.1)),
    (ICSDLoss, icsd_loss, dict(temperature=3.0)),
    (CWDLoss, cwd_loss, dict(temperature=3.0)),
    (DISTLoss, dist_loss,
     dict(beta=2.0, gamma=3.0, temperature=4.0, activation='sigmoid')),
])
def test_module_equals_function(module, function, options):
    student, teacher = maps(2, 4, 7, 9)
    assert torch.equal(
        module()(student, teacher), function(student, teacher))
    expected = function(student, teacher, **options)
    assert torch.equal(module(**options)(student, teacher), expected)
    assert not torch.equal(module()(student, teacher), expected)


TORCH_ALONE = """
import importlib.util
import sys
hosts = ['mmengine', 'mmcv', 'mmseg', 'mmdet']
find_spec = importlib.util.find_spec
importlib.util.find_spec = (
    lambda name, *args: None if name in hosts else find_spec(name, *args))
sys.modules.update(dict.fromkeys(hosts))
import mmselfkd.losses
ours = {name.split('.')[1] for name in sys.modules
        if name.startswith('mmselfkd.')}
assert ours == {'checks', 'errors', 'losses', 'version'}, ours
"""


def test_losses_import_with_torch_alone():
    """And nothing of the package but what needs not even torch."""
    subprocess.run([sys.executable, '-c', TORCH_ALONE], check=True)


def test_labels_are_resized_by_nearest():
    logits = torch.zeros(1, 2, 2, 3)
    label = torch.arange(24).view(1, 4, 6)
    expected = torch.tensor([[[0, 2, 4], [12, 14, 16]]])
    assert torch.equal(resize_label(label, logits), expected)
    assert torch.equal(resize_label(label[:, None].int(), logits), expected)
    small = torch.tensor([[[7]]], dtype=torch.uint8)
    assert torch.equal(
        resize_label(small, logits), torch.full((1, 2, 3), 7))


@pytest.mark.parametrize('shape', [(2, 4, 6), (1, 2, 4, 6), (4, 6),
                                   (1, 0, 6)])
def test_label_error_shows_both_shapes(shape):
    with pytest.raises(ValueError) as error:
        resize_label(torch.zeros(shape).long(), torch.zeros(1, 2, 2, 3))
    assert str(shape) in str(error.value)
    assert '(1, 2, 2, 3)' in str(error.value)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bool])
def test_label_must_hold_integers(dtype):
    with pytest.raises(TypeError, match='integers'):
        resize_label(torch.zeros(1, 2, 3).to(dtype), torch.zeros(1, 2, 2, 3))
