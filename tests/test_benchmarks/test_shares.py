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


def test_other_data():
    """A run by epochs, at full width, on images that are at hand."""
    cfg = Config.fromfile('configs/nfd/nfd_retinanet_r101-r18_fpn_1x_coco.py')
    shares.on_other_data(cfg, 'configs/_base_/datasets/toy_det.py')
    data = cfg.train_dataloader
    assert (data.batch_size, data.dataset.type) == (
        2, 'mmselfkd.ToyDetDataset')
    assert 'init_cfg' not in cfg.model.backbone
    assert cfg.model.backbone.depth == 18
    data.dataset.length = 200  # 100 iterations an epoch, of which there are 12
    assert shares.shortened(cfg, 120) == 50  # 500 of 1200
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=120)
    warm_up, steps = cfg.param_scheduler
    assert not warm_up.by_epoch and not steps.by_epoch
    assert (steps.end, steps.milestones) == (120, [80, 110])


def test_several_configs_in_one_run(tiny, tmp_path, monkeypatch):
    """Each has the shares of a run of its own; the teachers are random."""
    tables = {}
    for name, losses in dict(
            one=dict(loss_nfd=dict(type='NFDLoss', source='features')),
            other=dict(loss_kd=dict(type='KDLoss', source='logits'),
                       loss_cwd=dict(type='CWDLoss', source='logits'))
    ).items():
        tiny.config(tmp_path, dict(
            type='mmselfkd.DistillHook', losses=losses,
            teacher=tiny.teacher(checkpoint='absent.pth')), iters=4,
            **{'model.decode_head.dropout_ratio': 0.,
               'model.auxiliary_head.dropout_ratio': 0.}).dump(
                   tmp_path / f'{name}.py')
    paths = [str(tmp_path / f'{name}.py') for name in ('one', 'other')]
    for flags in ((), ('--together', )):
        out = tmp_path / 'table.md'
        monkeypatch.setattr(sys, 'argv', [
            'shares.py', *paths, '--random-teachers', '--iters', '1',
            '--window', '1', '--out', str(out), *flags])
        monkeypatch.setattr(shares.diagnosis, 'gradient_shares',
                            shares.gradient_shares)
        shares.main()
        tables[flags] = [
            [cell.strip() for cell in line.strip('|').split('|')][:6]
            for line in out.read_text().splitlines() if line.startswith('|')]
    apart, together = tables.values()
    apart, together = ({row[1]: row[2:] for row in rows[2:]}
                       for rows in (apart, together))
    assert set(apart) == set(together) == {
        '`loss_nfd`', '`loss_kd`', '`loss_cwd`'}
    for name, cells in apart.items():
        for a, b in zip(cells, together[name]):  # other draws of the batch
            assert float(a[:-2]) > 0
            assert float(a[:-2]) == pytest.approx(float(b[:-2]), rel=0.1)
