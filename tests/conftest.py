"""One thread and a fixed seed for every test, in whatever order they run."""
import gc
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
collect_ignore = ['projects']  # of users: a test copies and runs them
for _folder in 'benchmarks', 'tools':  # scripts, no packages
    sys.path.insert(0, str(ROOT / _folder))

# the projects of users that follow the README
collect_ignore = ['projects']


@pytest.fixture(scope='session')
def root():
    """The folder of the repository."""
    return ROOT


@pytest.fixture(autouse=True, scope='module')
def little_to_collect():
    """Every data set of mmengine collects garbage, and there is much that is
    none: the hosts' modules, what the compiler keeps."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # for child processes
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def run_without():
    """Runs code in a fresh interpreter that lacks the packages named."""

    def run(code, *packages):
        blocker = (
            'import sys\n'
            'class Without:\n'
            '    def __init__(self, finder):\n'
            '        self.finder = finder\n'
            '    def __getattr__(self, name):\n'
            '        return getattr(self.finder, name)\n'
            '    def find_spec(self, name, *args):\n'
            f'        if name not in {packages!r}:\n'
            '            return self.finder.find_spec(name, *args)\n'
            'sys.meta_path = list(map(Without, sys.meta_path))\n')
        return subprocess.run([sys.executable, '-c', blocker + code],
                              capture_output=True,
                              text=True)

    return run


@pytest.fixture
def tiny():
    """The functions of ``tiny_runs``: ``config``, ``teacher``, ``build``."""
    import tiny_runs
    return tiny_runs


@pytest.fixture
def detectors(monkeypatch):
    """The functions of ``tiny_detectors``: ``config``, ``teacher``."""
    import tiny_detectors
    from mmengine.config import Config

    # laying out a detector's config for the log takes longer than the run
    monkeypatch.setattr(Config, 'pretty_text', '')
    return tiny_detectors


@pytest.fixture
def spy():
    """``helpers.Spy`` and ``LabelSpy``, registered; it has seen nothing."""
    from helpers import LabelSpy, Spy
    from mmengine.registry import MODELS

    Spy.calls = []
    for cls in (Spy, LabelSpy):
        MODELS.register_module(module=cls, force=True)
    yield Spy
    for cls in (Spy, LabelSpy):
        MODELS.module_dict.pop(cls.__name__)


@pytest.fixture
def two_processes(tmp_path):
    """Runs code twice at once; its arguments are the rank and a store.

    The test fails where the code does, so its assertions are those of the
    test.
    """
    from processes import finish

    def run(code):
        finish([subprocess.Popen(
            [sys.executable, '-c', code, str(rank), str(tmp_path / 'store')],
            env=dict(os.environ, GLOO_SOCKET_IFNAME='lo'),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for rank in range(2)], timeout=200)

    return run


@pytest.fixture
def outside(root):
    """Runs a file below the root, as a user's project imports it.

    What it registers is forgotten after the test.
    """
    from mmengine.registry import DATASETS, MODELS
    from mmseg.registry import MODELS as MMSEG_MODELS

    from mmselfkd.hosts import temporary_registrations
    from mmselfkd.registry import TEACHERS

    registries = DATASETS, MODELS, MMSEG_MODELS, TEACHERS
    before = [dict(registry.module_dict) for registry in registries]
    with temporary_registrations():
        yield lambda path: runpy.run_path(str(root / path))
    for registry, parts in zip(registries, before):
        registry.module_dict.clear()
        registry.module_dict.update(parts)


@pytest.fixture
def config_of(monkeypatch):
    """The config that a command line of tools/train.py gives to the Runner."""
    import train
    from mmengine.registry import RUNNERS

    class Trainable:

        def train(self):
            pass

    def run(*flags):
        built = []
        monkeypatch.setattr(RUNNERS, 'build', lambda cfg: (built.append(cfg),
                                                           Trainable())[1])
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, flags)])
        train.main()
        return built[0]

    return run
