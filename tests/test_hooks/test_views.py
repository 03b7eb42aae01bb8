"""Recorded views in a run: what would not keep them is refused before it."""
import pytest
from helpers import KD, NO_DROPOUT, assert_equal, interrupt, record, train
from mmengine.hooks import Hook

from mmselfkd.errors import ConfigError


def recorded(tiny, tmp_path, views=2, **changes):
    """A distilled run on recorded views."""
    cfg = tiny.config(tmp_path, dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(),
        losses=dict(loss_kd=KD)), **changes)
    return record(cfg, views)


@pytest.mark.parametrize('by_epoch', [False, True])
def test_every_view_in_turn(tiny, tmp_path, by_epoch):
    """8 images in batches of 2: a view is done after 4 iterations."""
    cfg = recorded(tiny, tmp_path, iters=3 if by_epoch else 12,
                   by_epoch=by_epoch)
    seen = []

    class Look(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.extend(x.view for x in data_batch['data_samples'])

    train(cfg, Look())
    assert [view for _, view in seen] == [0] * 8 + [1] * 8 + [0] * 8
    for epoch in range(3):
        assert sorted(i for i, _ in seen[8 * epoch:8 * epoch + 8]) == [
            *range(8)]


def test_a_resumed_run_goes_on_in_its_view(tiny, tmp_path):
    """Random flips too are those of the run that was not interrupted."""
    logs = []
    for name, stops in (('whole', False), ('resumed', True)):
        cfg = recorded(tiny, tmp_path / name, iters=6, **NO_DROPOUT)
        if stops:
            interrupt(tiny.build(cfg.copy()), 4)
            cfg.resume = True
        logs.append(train(cfg)[1].entries)
    assert len(logs[1]) == 2
    assert_equal(logs[0][4:], logs[1])


def test_views_that_would_never_be_shown(tiny, tmp_path):
    cfg = recorded(tiny, tmp_path)
    cfg.train_dataloader.sampler = cfg.train_dataloader.sampler.sampler
    with pytest.raises(ConfigError) as error:
        train(cfg)
    line = str(error.value).rpartition('write ')[2]
    assert line == ("sampler=dict(type='mmselfkd.ViewSampler', sampler={'type'"
                    ": 'InfiniteSampler', 'shuffle': True})")
    cfg.train_dataloader.sampler = eval(line.partition('=')[2])
    train(cfg)


def test_one_view_needs_no_sampler(tiny, tmp_path):
    cfg = recorded(tiny, tmp_path, views=1)
    cfg.train_dataloader.sampler = cfg.train_dataloader.sampler.sampler
    assert train(cfg)[0].iter == cfg.train_cfg.max_iters


def test_a_transform_with_a_memory(detectors, tmp_path):
    cfg = detectors.config(tmp_path, 'fcos', dict(
        type='mmselfkd.DistillHook', teacher=detectors.teacher('fcos'),
        losses=dict(loss_kd=KD)))
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='CachedMosaic', img_scale=(64, 64)))
    record(cfg)
    with pytest.raises(ConfigError, match='train_dataloader.dataset: '
                       'CachedMosaic does not make the same sample'):
        train(cfg)


@pytest.mark.parametrize('hook', [
    dict(type='mmdet.PipelineSwitchHook', switch_epoch=1, switch_pipeline=[]),
    dict(type='mmdet.YOLOXModeSwitchHook')])
def test_a_pipeline_that_changes(tiny, tmp_path, hook):
    cfg = recorded(tiny, tmp_path)
    cfg.custom_hooks.append(hook)
    with pytest.raises(ConfigError, match='custom_hooks: a '
                       f'{hook["type"][6:]} changes the pipeline'):
        train(cfg)


def test_views_must_be_the_outermost(tiny, tmp_path):
    cfg = recorded(tiny, tmp_path)
    loader = cfg.train_dataloader
    loader.sampler = loader.sampler.sampler
    loader.dataset = dict(
        type='RepeatDataset', times=2, dataset=loader.dataset)
    with pytest.raises(ConfigError, match='RepeatDataset: has FixedViews '
                       'inside; that must be the outermost'):
        train(cfg)
