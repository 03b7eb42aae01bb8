"""benchmarks/saturation/costs.py, on two small images."""
import json
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from PIL import Image

from benchmarks.saturation import costs

NO_WEIGHTS = 'model.backbone.init_cfg=None'


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images, and an untrained teacher."""
    rng = np.random.default_rng(0)
    for kind, suffix, channels in (('images', 'jpg', (3,)),
                                   ('annotations', 'png', ())):
        folder = tmp_path / 'camvid' / kind / 'train'
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(
                0, 11, (48, 64, *channels), dtype=np.uint8)).save(
                    folder / f'{i}.{suffix}')
    monkeypatch.setenv('CAMVID', str(tmp_path / 'camvid'))
    monkeypatch.setenv('TEACHER', str(tmp_path / 'teacher.pth'))
    teacher = Config.fromfile(costs.HERE / 'configs' / 'camvid_teacher.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(teacher.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'teacher.pth')


def test_live_stored_and_without_a_teacher(data, tmp_path, monkeypatch):
    def group(config, label, hook):
        return dict(config=config, label=label, iterations=[2], seeds=[0, 1],
                    options=[NO_WEIGHTS, 'train_dataloader.batch_size=2',
                             f'custom_hooks.1.type=mmselfkd.{hook}'])

    (tmp_path / 'list.json').write_text(json.dumps([
        group('camvid_cached', 'cwd', 'CWDHook'),
        group('camvid_alone', 'tfd', 'TFDHook'),
        dict(config='camvid_student', iterations=[2], seeds=[0])]))
    monkeypatch.setattr(sys, 'argv', [
        'costs', str(tmp_path / 'list.json'), '--out', str(tmp_path),
        '--warmup', '1', '--iters', '3'])
    monkeypatch.setattr(costs.step_cost, 'MEMORY_ROUNDS', 1)
    costs.main()
    found = json.loads((tmp_path / 'costs.json').read_text())
    assert sorted(found) == [
        'camvid_alone tfd', 'camvid_cached cwd', 'camvid_taught cwd']
    assert found['camvid_taught cwd'] > 1.3 * found['camvid_cached cwd'] > .5
    # what is there is left out
    monkeypatch.setattr(costs, 'measured', None)
    costs.main()
