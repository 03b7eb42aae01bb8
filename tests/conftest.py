"""One thread and a fixed seed for every test, in whatever order they run."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))  # the tools are scripts, no package


@pytest.fixture(scope='session')
def root():
    """The folder of the repository."""
    return ROOT


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
            'class Blocker:\n'
            '    def find_spec(self, name, *_):\n'
            f'        if name in {packages!r}:\n'
            '            raise ModuleNotFoundError(f"no {name}", name=name)\n'
            'sys.meta_path.insert(0, Blocker())\n')
        return subprocess.run([sys.executable, '-c', blocker + code],
                              capture_output=True,
                              text=True)

    return run
