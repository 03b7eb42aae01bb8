"""Collectives: none without ``sync_ranks``, means over all ranks with it."""

import pytest
import torch
from every_loss import CLASSES, extra, made
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from mmselfkd import losses

# that have a mean over all ranks
SYNCED = (losses.AttnFDLoss, losses.CIRKDMemoryLoss, losses.DISTLoss,
          losses.HolisticLoss, losses.IFVDLoss, losses.KDLoss,
          losses.MixSKDLogitLoss, losses.PKDLoss, losses.SRDLoss)


class Collectives(TorchDispatchMode):
    """Counts the collectives of a process group."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace.endswith('c10d')
        return func(*args, **(kwargs or {}))


@pytest.fixture
def process_group():
    distributed.init_process_group(
        'gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def collectives(loss):
    """How many there are in the calls of an iteration."""
    student, teacher = torch.rand(2, 2, 4, 6, 6)
    image = torch.rand(2, 3, 12, 12)
    options = extra(loss, student)
    if loss.takes_weight:
        options['weight'] = torch.ones(2, 1, 6, 6)
    student.requires_grad_()
    with Collectives() as seen:
        loss(student, teacher, **options).backward()
        if loss.is_adversarial:
            loss.discriminator_loss(student, teacher, image=image).backward()
    return seen.count


@pytest.mark.parametrize('cls', CLASSES)
def test_no_collective_unless_asked_for(process_group, cls):
    loss = made(cls)
    assert collectives(loss) == 0
    loss.sync_ranks = True
    assert (collectives(loss) > 0) is (cls in SYNCED)
    loss.sync_ranks = False
    assert collectives(loss) == 0


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from mmselfkd.losses import (
    DISTLoss, HolisticLoss, IFVDLoss, KDLoss, MixSKDLogitLoss, PKDLoss)

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
torch.manual_seed(0)
student, teacher = torch.randn(2, 4, 3, 6, 5).double()
image = torch.rand(4, 3, 12, 10).double()
label = torch.zeros(4, 6, 5).long()
label[3, 2:] = 255  # other numbers of valid pixels on the two ranks
mine = slice(2 * rank, 2 * rank + 2)


def value(loss, part, sync_ranks):
    loss.sync_ranks = sync_ranks
    extra = {}
    if loss.needs_label:
        extra['label'] = label[part]
    if loss.needs_image:
        extra['image'] = image[part]
    return loss(student[part], teacher[part], **extra).detach()


def mean(loss, sync_ranks):
    total = value(loss, mine, sync_ranks)
    distributed.all_reduce(total)
    return total / 2


holistic = HolisticLoss()
holistic.build(student, teacher, image)
holistic.double()
for loss in (KDLoss(), MixSKDLogitLoss(), holistic, DISTLoss(),
             DISTLoss(ignore_index='head'), IFVDLoss(), PKDLoss()):
    whole = value(loss, slice(4), False)
    torch.testing.assert_close(mean(loss, True), whole)
    assert (mean(loss, False) - whole).abs() > 1e-4 * whole.abs()


def gradient(part, sync_ranks):
    maps = student.clone().requires_grad_()
    loss = DISTLoss()
    loss.sync_ranks = sync_ranks
    loss(maps[part], teacher[part]).backward()
    return maps.grad[mine]


# DDP takes the mean over the ranks
torch.testing.assert_close(
    gradient(mine, True) / 2, gradient(slice(4), False))
distributed.destroy_process_group()
"""


def test_two_ranks_are_as_one(two_processes):
    two_processes(TWO_PROCESSES)
