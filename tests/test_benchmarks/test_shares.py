"""The table of the shares of each preset's losses."""
import sys

import pytest
import shares
from mmengine.config import Config


@pytest.fixture
def bench(tiny, tmp_path, monkeypatch):
    """Runs the script on a config with these hooks; its table by loss."""

    def bench(hook, *args):
        path = tmp_path / 'mine.py'
        tiny.config(tmp_path, hook, iters=40, param_scheduler=[
            dict(type='LinearLR', start_factor=.1, begin=0, end=10,
                 by_epoch=False),
            dict(type='PolyLR', begin=10, end=40, by_epoch=False)]).dump(path)
        out = tmp_path / 'table.md'
        monkeypatch.setattr(sys, 'argv', [
            'shares.py', str(path), '--out', str(out), *args])
        shares.main()
        header, _, *rows = [
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in out.read_text().splitlines() if line.startswith('|')]
        return out.read_text(), {
            row[1].strip('`'): dict(zip(header, row)) for row in rows}

    return bench


def test_a_short_run(tiny, bench):
    """Warm-up and ramps shrink with the run; what was off has no share."""
    text, table = bench(dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(), losses=dict(
            loss_nfd=dict(type='NFDLoss', source='features',
                          loss_weight=1e4),
            loss_kd=dict(type='KDLoss', source='logits', loss_weight=1e-6),
            loss_late=dict(type='KDLoss', source='logits', schedule=dict(
                type='LinearRamp', begin=2 / 3, end=3 / 4)))),
        '--iters', '8', '--window', '2')
    assert 'iterations 2 to 3' in text and 'over 6 to 7, of 8' in text
    assert set(table) == {'loss_nfd', 'loss_kd', 'loss_late'}
    large, small, late = (
        table[f'loss_{name}'] for name in ('nfd', 'kd', 'late'))
    assert [row['config'] for row in table.values()] == ['mine', '', '']
    assert large['far from'] == small['far from'] == 'loss and gradient'
    for when in ('first', 'last'):
        for whole in ('loss', 'gradient'):
            assert float(large[f'of the {whole}, {when}'][:-2]) > 95
            assert float(small[f'of the {whole}, {when}'][:-2]) < .5
    assert late['of the loss, first'] == late['of the gradient, first'] == '-'
    assert 0 < float(late['of the gradient, last'][:-2]) < 100
    assert sum(row['cost'] != '-' for row in table.values()) == 1


def test_a_pair_on_a_cpu():
    """The models of Cityscapes, narrowed, on images of CamVid."""
    cfg = Config.fromfile('configs/skd/skd_pspnet_r101-r18-d8_4xb2-80k_'
                          'cityscapes-512x1024.py')
    shares.on_a_cpu(cfg, 8)
    shares.shortened(cfg, 8)
    hook, = cfg.custom_hooks
    teacher = hook.teacher.config.model
    assert hook.teacher.checkpoint == 'random'
    for model, deep in ((cfg.model, 512), (teacher, 2048)):
        assert model.backbone.base_channels == 8
        assert model.decode_head.in_channels == deep // 8
        assert model.backbone.norm_cfg.type == 'BN'
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert any(step.get('crop_size') == (512, 1024) for step in pipeline)
    assert 'camvid' in cfg.train_dataloader.dataset.data_root
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == 8
