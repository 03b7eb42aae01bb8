"""Losses that are constant by construction are refused, and no others."""
import copy
import itertools
import math

import pytest
import torch
from every_loss import CLASSES, extra, made

from mmselfkd.losses import (
    ATLoss,
    AttnFDLoss,
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
    CWDLoss,
    DISTLoss,
    FGDLoss,
    FitNetsLoss,
    HolisticLoss,
    ICSDLoss,
    IFVDLoss,
    KDLoss,
    LDLoss,
    MGDLoss,
    MixSKDAdversarialLoss,
    MixSKDFeatureLoss,
    MixSKDLogitLoss,
    NFDLoss,
    PairwiseLoss,
    PKDLoss,
    SRDLoss,
    TFDInterLoss,
    TFDIntraLoss,
    ValueLoss,
)

LOSSES = [
    KDLoss(), KDLoss(activation='sigmoid'), KDLoss(groups=2),
    KDLoss(4.0, dynamic_temperature=dict(type='FLSW')),
    KDLoss(adjust=dict(type='ProbabilityShift')), MixSKDLogitLoss(),
    MixSKDLogitLoss(activation='sigmoid'), MixSKDFeatureLoss(),
    MixSKDAdversarialLoss(),
    *(NFDLoss(dims, 1e-12) for dims in ('hw', 'nhw', 'c', 'chw')),
    PairwiseLoss(), PairwiseLoss(pool=1), PairwiseLoss(pool_mode='max'),
    PairwiseLoss(pool=None, connection_range=1), ICSDLoss(), ATLoss(),
    ATLoss(reduction='sum'), TFDInterLoss(), TFDIntraLoss(), ValueLoss(),
    *(ValueLoss('log_l1'), ValueLoss('scale_invariant'),
      ValueLoss('scale_invariant', balance=1.0)), CWDLoss(), FitNetsLoss(),
    PKDLoss(), FGDLoss(alpha=1., beta=1.), MGDLoss(), DISTLoss(),
    DISTLoss(beta=0.0), DISTLoss(gamma=0.0),
    DISTLoss(activation='sigmoid'), CIRKDMiniBatchLoss(),
    CIRKDMiniBatchLoss(pool=2), made(CIRKDMemoryLoss), IFVDLoss(),
    AttnFDLoss(), AttnFDLoss(norm='batch'), SRDLoss(),
    KDLoss(standardise=True)]
SHAPES = [(3, channels, *size)
          for channels, size in itertools.product(
              (1, 2, 4), ((1, 1), (1, 2), (2, 2), (1, 3), (4, 5)))]


def name(loss):
    options = {key: value for key, value in vars(loss).items()
               if key[0] != '_' and key not in (
                   'training', 'optimizer_cfg', 'needs_label')}
    return f'{type(loss).__name__}-{list(options.values())}'


def teaches(loss, shape):
    """Whether the student gets a gradient, on any of some positive maps.

    No two numbers of a map are close to each other, where eps would show.
    """
    count = math.prod(shape)
    sizes = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        student, teacher = (
            0.1 + 4 * torch.randperm(count, generator=generator).double().view(
                shape) / count for _ in 'st')
        student.requires_grad_()
        copy.deepcopy(loss)(
            student, teacher, **extra(loss, student)).backward()
        sizes.append(student.grad.abs().max())
    return bool(max(sizes) > 1e-5)


@pytest.mark.parametrize('loss', LOSSES, ids=name)
def test_what_teaches_nothing_is_refused(loss):
    refused = {}
    for shape in SHAPES:
        if shape[1] % (loss.groups or 1):
            continue
        maps = torch.rand(shape) + 0.1
        try:
            loss.check(maps, maps)
        except ValueError as error:
            refused[shape] = str(error)
        assert teaches(loss, shape) is (shape not in refused), shape
    for message in refused.values():
        assert message.startswith(type(loss).__name__)
        assert '; use ' in message


@pytest.mark.parametrize('loss, shape, part', [
    (KDLoss(), (2, 1, 8, 8), 'ValueLoss for depth'),
    (KDLoss(), (2, 1, 8, 8), "activation='sigmoid'"),
    (PairwiseLoss(), (2, 1, 8, 8), 'ValueLoss for depth'),
    (ICSDLoss(), (2, 1, 8, 8), 'ValueLoss for depth'),
    (PairwiseLoss(pool=8), (2, 4, 8, 6), 'pool=8 makes one of 8 x 6'),
    (NFDLoss(), (2, 4, 1, 1), "use a finer level or dims='c' or dims='chw'"),
    (NFDLoss('c'), (2, 1, 4, 4), "dims='hw' or dims='nhw' or dims='chw'"),
])
def test_what_works_instead(loss, shape, part):
    maps = torch.rand(shape)
    with pytest.raises(ValueError) as error:
        loss.check(maps, maps)
    assert part in str(error.value)


@pytest.mark.parametrize('mode', ['log_l1', 'scale_invariant'])
def test_no_logarithm_of_negative_values(mode):
    depth = torch.rand(2, 1, 3, 3)
    loss = ValueLoss(mode)
    loss.check(depth, depth)
    for maps, who in (((depth - 0.5, depth), 'student'),
                      ((depth, depth - 0.5), 'teacher')):
        with pytest.raises(ValueError, match=f"{who}'s map .* mode='l1'"):
            loss.check(*maps)
    ValueLoss('l1').check(depth - 0.5, depth - 0.5)


@pytest.mark.parametrize('reach', [0, -1])
def test_a_graph_without_pairs_is_refused(reach):
    with pytest.raises(ValueError, match='connection_range must be None or '
                       'an integer of 1 or more'):
        PairwiseLoss(connection_range=reach)


def test_every_loss_is_here():
    """HolisticLoss is never constant; its gradient is small at the start.

    LDLoss gets what a head says are distributions of several bins.
    """
    assert {type(loss) for loss in LOSSES} == set(CLASSES) - {
        HolisticLoss, LDLoss}
