"""A forward pass ends where all has been seen that is asked for."""
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from mmselfkd.taps import Tap
from mmselfkd.teachers.forward import TappedForward


class Net(nn.Module):
    """Three layers, of which the second runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 3, 1) for _ in range(3))
        self.passed = []

    def forward(self, x, mode='tensor'):
        for name in ('first', 'second', 'second', 'third'):
            x = getattr(self, name)(x)
            self.passed.append(name)
        return x


@pytest.fixture
def forward():
    """It and its network, after the rehearsal."""
    net = Net()
    taps = {source: Tap(net, source, 'key', ExitStack())
            for source in ('first', 'second')}
    forward = TappedForward(taps, lambda inputs, samples: net(inputs))
    forward.net = net
    levels = forward.rehearse(torch.rand(1, 3, 4, 4), None)
    assert [len(levels[source]) for source in taps] == [1, 2]
    assert net.passed == ['first', 'second', 'second', 'third']
    return forward


@pytest.mark.parametrize('sources, passed', [
    (['first'], []), (['second'], ['first', 'second']),
    (['first', 'second'], ['first', 'second']),
    (None, ['first', 'second'])])
def test_no_further_than_the_last_run_of_what_is_asked(
        forward, sources, passed):
    forward.net.passed.clear()
    levels = forward(sources, torch.rand(1, 3, 4, 4), None)
    assert set(levels) == set(sources or ('first', 'second'))
    assert forward.net.passed == passed
    assert not any(tap.is_open for tap in forward.taps.values())
