"""The hosts' own log tools on what a distilled run has logged."""
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import mmdet
import mmseg
import pytest
import tiny_detectors
import tiny_runs
from mmengine.config import Config

TASK = dict(mmseg='decode.loss_ce', mmdet='loss_cls')


@pytest.fixture
def curves(monkeypatch, tmp_path):
    """The values of each key, as a host's tool draws them."""
    monkeypatch.setattr(Config, 'pretty_text', '')
    if importlib.util.find_spec('seaborn') is None:  # for its colours alone
        monkeypatch.setitem(sys.modules, 'seaborn', ModuleType('seaborn'))

    def curves(host, cfg):
        cfg.work_dir = str(tmp_path / f'{host}{len(cfg.custom_hooks)}')
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.train_cfg.max_iters = 3
        tiny_runs.build(cfg).train()
        package = dict(mmseg=mmseg, mmdet=mmdet)[host]
        spec = importlib.util.spec_from_file_location('tool', Path(
            package.__file__).parent / '.mim' / 'tools' / 'analysis_tools'
            / 'analyze_logs.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        log, = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
        by_step, = tool.load_json_logs([str(log)])
        found = {}
        for values in by_step.values():
            for key, value in values.items():
                found.setdefault(key, []).extend(value)
        return found

    return curves


def config(host, *hooks):
    return tiny_runs.config('', *hooks) if host == 'mmseg' else (
        tiny_detectors.config('', 'fcos', *hooks))


@pytest.mark.parametrize('host', ['mmseg', 'mmdet'])
def test_every_key_has_its_curve(curves, host):
    """Also with what is measured now and then, and without labels."""
    plain = curves(host, config(host))
    teacher = tiny_runs.teacher() if host == 'mmseg' else (
        tiny_detectors.teacher('fcos'))
    data = config(host).train_dataloader.dataset.to_dict()
    data['pipeline'] = [step for step in data['pipeline']
                        if step['type'] != 'LoadAnnotations']
    distilled = curves(host, config(host, dict(
        type='mmselfkd.SKDHook' if host == 'mmseg' else 'mmselfkd.NFDHook',
        teacher=teacher, diagnose=dict(interval=2), unlabelled=dict(
            dataloader=dict(batch_size=2, num_workers=0, dataset=data)))))
    assert set(plain) < set(distilled)
    for part in ('share.', 'cosine.', '_unlabelled'):
        assert any('distill.' in key and part in key for key in distilled)
    for key, values in distilled.items():
        # a tool that takes a line for one of a validation leaves out the rest
        assert len(values) == 3 or key.startswith('distill.agreement_'), key
    assert distilled['step'] == plain['step'] == [1, 2, 3]
    task = TASK[host]  # before the first step the student is the same
    assert distilled[task][0] == pytest.approx(plain[task][0], rel=1e-5)
