"""The presets of the methods on segmentors: in a real Runner, resumed."""
import pytest
import tiny_runs
from helpers import assert_clean, assert_stock, load, train
from test_distributed import assert_same, launch
from test_presets import documented
from test_resume import stop_and_go

import mmselfkd
from mmselfkd import ConfigError
from mmselfkd.sources import STUDENT

# hook -> the folder of its configs
HOOKS = dict(
    AttnFDHook='attnfd', CIRKDHook='cirkd', CWDHook='cwd', DISTHook='dist',
    FitNetsHook='fitnets', IFVDHook='ifvd', MGDHook='mgd',
    SRDHook='srd')
every_hook = pytest.mark.parametrize('name', HOOKS)


def hook(name, **options):
    return dict(dict(type=f'mmselfkd.{name}', teacher=tiny_runs.teacher()),
                **options)


def keys(name):
    """The keys of the preset's losses in the log."""
    return {f'distill.{key}' for key in getattr(mmselfkd, name).preset}


@every_hook
def test_preset_is_the_documented_one(root, name):
    plan = getattr(mmselfkd, name)(teacher=tiny_runs.teacher()).plan
    rows = {}
    for config in plan.losses:
        ours, theirs = config.student_sources, config.teacher_sources
        assert [owner for owner, _ in ours] == [STUDENT] * len(ours)
        assert [path for _, path in ours] == [path for _, path in theirs]
        assert config.schedule is None
        rows[config.name] = [
            config.loss_name, ', '.join(path for _, path in ours),
            f'{config.loss_weight:g}', '-']
    assert rows == documented(root, HOOKS[name])
    assert plan.task_schedule is None


@every_hook
def test_a_run_logs_its_losses_and_leaves_a_stock_student(tmp_path, name):
    cfg = tiny_runs.config(tmp_path, hook(name))
    runner, logs = train(cfg)
    for entry in logs.entries:
        assert {key for key in entry if key.startswith('distill.loss')
                } == keys(name)
        for key in keys(name):
            # a discriminator's score has any sign
            assert entry[key] > 0 or 'loss_ho' in key and entry[key] != 0, key
        parts = [v for key, v in entry.items()
                 if 'loss' in key and key != 'loss']
        assert entry['loss'] == pytest.approx(sum(parts), rel=1e-5)
    assert_stock(load(tmp_path, 2), cfg.model)
    assert_clean(runner)


@every_hook
def test_two_and_two_are_four(tmp_path, name):
    cfg = tiny_runs.config(tmp_path, hook(name), iters=4)
    stop_and_go(cfg, tmp_path)


def test_queues_longer_than_the_data_are_refused(tmp_path):
    cfg = tiny_runs.config(tmp_path, iters=1)
    length = cfg.train_dataloader.dataset.length  # of the set, not the run
    cfg.custom_hooks = [hook('CIRKDHook', losses=dict(loss_memory=dict(
        pixel_memory=16 * length + 1, region_memory=length)))]
    with pytest.raises(ConfigError, match=(
            r'CIRKDHook\.losses\.loss_memory: pixel_memory = '
            f'{16 * length + 1}: longer than the data.*{16 * length} or fe')):
        train(cfg)


def test_queues_of_two_ranks_are_those_of_one(tmp_path):
    """All pixels are remembered and compared with, so nothing is chosen."""
    one = launch('cirkd', tmp_path / 'one', 4, 1)
    two = launch('cirkd', tmp_path / 'two', 2, 2)
    assert_same(one['state_dict'], two['state_dict'])
    ours, theirs = (x['mmselfkd']['modules'] for x in (one, two))
    for kind in ('pixels', 'regions'):
        prefix = f'loss_memory.losses.0.{kind}'
        places = ours[f'{prefix}.places']
        assert places.max() > 0
        assert places.equal(theirs[f'{prefix}.places'])
        for first, second in zip(*(
                x[f'{prefix}.slots'][:-1].unflatten(0, (len(places), -1))
                for x in (ours, theirs))):
            # the images of a batch are in another order
            assert_same({kind: first.sort(0).values},
                        {kind: second.sort(0).values})
