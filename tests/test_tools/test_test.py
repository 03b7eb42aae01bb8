import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from train import find_config

SEG = 'mmselfkd::toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'
BOXES = 'mmselfkd::toy/fcos_r18-w8_1xb8-1k_toy-96x96.py'
DEPTH = 'mmselfkd::toy/depth_r18-w8_1xb8-1k_toy-64x64.py'
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
    torch.save({}, checkpoint)

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


class Attack:

    def __reduce__(self):
        return os.mkdir, ('victim', )


def test_a_checkpoint_that_would_run_code(config_of, tmp_path, monkeypatch):
    """mmengine would fall back on running it: refused before."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(meta=Attack()), 'a.pth')
    with pytest.raises(SystemExit, match="'a.pth' cannot be read safely.*mkdir"
                       '.*--trust-checkpoint reads it'):
        config_of(SEG, checkpoint='a.pth')
    assert not (tmp_path / 'victim').exists()
    config_of(SEG, '--trust-checkpoint', checkpoint='a.pth')


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
    # mmdet alone would look in the work directory
    det = config_of(DET, '--show-dir', 'shown').default_hooks.visualization
    assert det.test_out_dir == str(Path.cwd() / 'shown')


def test_show_needs_the_hook(config_of):
    with pytest.raises(SystemExit, match='default_hooks.visualization'):
        config_of(SEG, '--show', '--cfg-options',
                  'default_hooks.visualization=None')


def test_out(config_of):
    seg, = config_of(SEG, '--out', 'folder').test_evaluator
    assert (seg.output_dir, seg.keep_results) == ('folder', True)
    metrics = config_of(DET, '--out', 'a.pkl').test_evaluator
    assert metrics[-1] == dict(
        type='mmdet.DumpDetResults', out_file_path='a.pkl')
    with pytest.raises(SystemExit, match="'folder': a .pkl file"):
        config_of(DET, '--out', 'folder')


@pytest.mark.parametrize('config', [SEG, TTA])
def test_tta(config_of, config):
    plain, cfg = config_of(config), config_of(config, '--tta')
    assert cfg.model == dict(**cfg.tta_model, module=plain.model)
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_a_new_style_config(config_of, tmp_path):
    """It names no scope: its host is that of its model."""
    path = tmp_path / 'new.py'
    path.write_text(
        'from mmdet.models import FCOS\nfrom mmdet.evaluation import '
        'CocoMetric\nmodel = dict(type=FCOS)\ndefault_scope = None\n'
        'test_evaluator = dict(type=CocoMetric)\n'
        'default_hooks = dict(visualization=dict())\n')
    cfg = config_of(str(path), '--out', 'a.pkl', '--show-dir', tmp_path)
    assert cfg.test_evaluator[-1].type == 'mmdet.DumpDetResults'
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path)


def test_tta_without_a_tta_config(config_of):
    with pytest.raises(SystemExit, match='no tta_model and no tta_pipeline'):
        config_of(DET, '--tta')


@pytest.mark.parametrize('config, flags, metric, kept', [
    (SEG, ['--tta'], 'mIoU', 'kept'),
    (BOXES, [], 'coco/bbox_mAP', 'kept.pkl'),
    (DEPTH, [], 'rmse', 'kept'),
])
def test_a_real_checkpoint(root, tmp_path, config, flags, metric, kept):
    """Metrics, painted and kept predictions of an untrained model."""
    cfg = Config.fromfile(find_config(config))
    init_default_scope(cfg.default_scope)
    checkpoint = tmp_path / 'model.pth'
    torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
    kept = tmp_path / kept
    command = [
        sys.executable, root / 'tools' / 'test.py', config, checkpoint,
        '--work-dir', tmp_path / 'work', '--show-dir', tmp_path / 'shown',
        '--out', kept, *flags, '--cfg-options',
        'test_dataloader.dataset.length=2',
        'model.test_cfg.score_thr=0'  # boxes that nobody is sure of
    ]
    subprocess.run([str(part) for part in command], check=True,
                   capture_output=True)
    result, = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(result.read_text())[metric] <= 100
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2
    predictions = kept.glob('*.png') if kept.is_dir() else load(kept)
    assert len(list(predictions)) == 2
    if config == DEPTH:  # in millimetres
        depth = cv2.imread(str(kept / '00000.png'), cv2.IMREAD_UNCHANGED)
        assert 500 <= depth.min() <= depth.max() <= 12000
