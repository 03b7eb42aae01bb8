"""What docs/guides/extending.md shows is run, in a project like a reader's.

A block that begins with the name of a file is that file of the project; the
others are run as they stand.
"""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mmseg.models  # noqa: F401  registers what the teacher is made of
import pytest
import torch
from helpers import load
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmselfkd.distillation import ENTRY
from mmselfkd.hosts import find_head_spec

PAGE = Path(__file__).parent.parent / 'docs' / 'guides' / 'extending.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
FILES = {block.split('\n')[0][2:]: block for block in BLOCKS
         if re.match(r'# \w+\.py\n', block)}
OTHERS = [block for block in BLOCKS if block not in FILES.values()]

STUDENT = """
_base_ = '{toy}/fpn_r18-w8_1xb8-1k_toy-64x64.py'
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=2)
param_scheduler = []
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
log_level = 'WARNING'
"""
TEACHER = "_base_ = '{toy}/fpn_r18-w32_1xb8-1k_toy-64x64.py'"
LIBRARY = """
import torch
from torch import nn


class TheirTransformer(nn.Module):

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 8, 8)
        self.extra = nn.Parameter(torch.randn(1, 2, 24))
        self.layers = nn.Sequential(nn.Linear(24, 24), nn.GELU())

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        extra = self.extra.expand(len(images), -1, -1)
        return self.layers(torch.cat((tokens, extra), 1))
"""
# `PYTHONPATH=. tools/train.py CONFIG` for each config, in one process
TRAIN = """
import json, sys
import train
from mmengine.logging import MessageHub
logged = {}
for config in sys.argv[1:]:
    sys.argv = ['train.py', config]
    train.main()
    logged[config] = {
        key: values.data[0].tolist() for key, values in
        MessageHub.get_current_instance().log_scalars.items()}
with open('logged.json', 'w') as file:
    json.dump(logged, file)
"""


@pytest.fixture
def project(root, tmp_path):
    """The files of the page, beside what its reader has."""
    toy = root / 'configs' / 'toy'
    files = FILES | {
        'student.py': STUDENT.format(toy=toy),
        'teacher.py': TEACHER.format(toy=toy), 'their_library.py': LIBRARY}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    teacher = MODELS.build(Config.fromfile(tmp_path / 'teacher.py').model)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    net = nn.Sequential(
        nn.Conv2d(3, 24, 7), nn.ReLU(), nn.Conv2d(24, 24, 3))
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    names = {}
    exec(LIBRARY, names)
    torch.save(names['TheirTransformer']().state_dict(),
               tmp_path / 'their.pth')
    return tmp_path


def test_what_is_added_is_in_effect(project, root):
    configs = [name for name in FILES if name.startswith('distil_')]
    done = subprocess.run(
        [sys.executable, '-c', TRAIN, *configs], cwd=project,
        env=dict(os.environ, PYTHONPATH=f'.:{root / "tools"}'),
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = json.loads((project / 'logged.json').read_text())
    assert set(logs) == {f'distil_own_{part}.py' for part in (
        'loss', 'score_loss', 'teacher', 'host', 'schedule')}
    for name, log in logs.items():
        key, = (key for key in log if key.startswith('train/distill.loss'))
        assert len(log[key]) == 2 and log[key][0] > 0
        is_off = name == 'distil_own_schedule.py'  # every other iteration
        assert (log[key][1] == 0) is is_off
        for total, *parts in zip(log['train/loss'], log[key],
                                 log['train/decode.loss_ce']):
            assert total == pytest.approx(sum(parts), rel=1e-4)
    for name in ('distil_own_teacher', 'distil_own_host'):
        saved = load(project / 'work_dirs' / name, 2)
        assert saved[ENTRY]['modules'][
            'loss_nfd.adapters.0.weight'].shape == (24, 16, 1, 1)


@pytest.mark.parametrize('block', OTHERS, ids=['head', 'place', 'loop'])
def test_blocks_without_a_file(block, outside, tmp_path):
    (tmp_path / 'block.py').write_text(block)
    names = outside(tmp_path / 'block.py')
    if 'register_head' in names:
        name, = re.findall(r"register_head\('(\w+)'", block)
        assert find_head_spec(type(name, (nn.Module, ), {})()) is not None
    else:
        assert set(names['losses']) >= {'loss_ce', 'distill.loss_nfd'}
        assert not hasattr(names['student'], ENTRY)
