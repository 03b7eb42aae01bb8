import sys

import pytest
import train
from mmengine.registry import RUNNERS


@pytest.fixture
def config_of(monkeypatch):
    """The config that a command line hands to the Runner."""

    def run(*flags):
        built = []
        monkeypatch.setattr(RUNNERS, 'build', lambda cfg: (built.append(cfg),
                                                           Trainable())[1])
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, flags)])
        train.main()
        return built[0]

    return run


class Trainable:

    def train(self):
        pass
