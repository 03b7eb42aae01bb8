import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from train import find_config

SEG = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'
DET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
TTA = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'


class Testable:

    def test(self):
        pass


@pytest.fixture
def config_of(monkeypatch, root, tmp_path):
    """The config that a command line hands to the Runner."""
    # by its path: `test` is a package of the standard library
    path = root / 'tools' / 'test.py'
    spec = importlib.util.spec_from_file_location('tools_test', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    checkpoint = tmp_path / 'iter_1.pth'
    checkpoint.touch()

    def run(config, *flags, checkpoint=checkpoint):
        built = []
        monkeypatch.setattr(RUNNERS, 'build', lambda cfg: (built.append(cfg),
                                                           Testable())[1])
        monkeypatch.setattr(
            sys, 'argv',
            ['test.py', config, *map(str, (checkpoint, *flags))])
        tool.main()
        return built[0]

    return run


@pytest.mark.parametrize('config', [SEG, DET])
def test_checkpoint_is_loaded_not_resumed(config_of, tmp_path, config):
    cfg = config_of(config, '--cfg-options', 'resume=True')
    assert cfg.load_from == str(tmp_path / 'iter_1.pth')
    assert cfg.resume is False


def test_missing_checkpoint_names_the_nearest(config_of, tmp_path):
    with pytest.raises(SystemExit, match='iter_2.pth.*: iter_1.pth'):
        config_of(SEG, checkpoint=tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('config', [SEG, DET])
def test_show(config_of, config):
    hook = config_of(config, '--show', '--wait-time', 3)
    hook = hook.default_hooks.visualization
    assert hook.draw and hook.show and hook.wait_time == 3


def test_show_dir_is_where_each_host_looks(config_of, tmp_path):
    seg = config_of(SEG, '--show-dir', tmp_path)
    assert seg.visualizer.save_dir == str(tmp_path)
    det = config_of(DET, '--show-dir', tmp_path)
    assert det.default_hooks.visualization.test_out_dir == str(tmp_path)
    assert det.default_hooks.visualization.show is False


def test_show_needs_the_hook(config_of):
    with pytest.raises(SystemExit, match='default_hooks.visualization'):
        config_of(SEG, '--show', '--cfg-options',
                  'default_hooks.visualization=None')


def test_out(config_of):
    seg, = config_of(SEG, '--out', 'folder').test_evaluator
    assert (seg.output_dir, seg.keep_results) == ('folder', True)
    metrics = config_of(DET, '--out', 'a.pkl').test_evaluator
    assert metrics[-1] == dict(type='DumpDetResults', out_file_path='a.pkl')
    with pytest.raises(SystemExit, match="'folder': a .pkl file"):
        config_of(DET, '--out', 'folder')


@pytest.mark.parametrize('config', [SEG, TTA])
def test_tta(config_of, config):
    plain, cfg = config_of(config), config_of(config, '--tta')
    assert cfg.model == dict(**cfg.tta_model, module=plain.model)
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_tta_without_a_tta_config(config_of):
    with pytest.raises(SystemExit, match='no tta_model and no tta_pipeline'):
        config_of(DET, '--tta')


def test_a_real_checkpoint(root, tmp_path):
    """Metrics, painted and kept predictions of an untrained model."""
    cfg = Config.fromfile(find_config(SEG))
    init_default_scope(cfg.default_scope)
    checkpoint = tmp_path / 'model.pth'
    torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
    command = [
        sys.executable, root / 'tools' / 'test.py', SEG, checkpoint,
        '--work-dir', tmp_path / 'work', '--show-dir', tmp_path / 'shown',
        '--out', tmp_path / 'kept', '--tta', '--cfg-options',
        'test_dataloader.dataset.length=2'
    ]
    subprocess.run([str(part) for part in command], check=True,
                   capture_output=True)
    result, = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(result.read_text())['mIoU'] <= 100
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2
    assert len(list((tmp_path / 'kept').glob('*.png'))) == 2
