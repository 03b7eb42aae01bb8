"""The presets of the methods on detectors: in a real Runner, resumed."""
import pytest
import tiny_runs
from helpers import assert_clean, assert_stock, load, train
from test_presets import documented, source_cell
from test_resume import stop_and_go

import mmselfkd
from mmselfkd import ConfigError

# hook -> the folder of its configs, the student, the width of the teacher
HOOKS = dict(
    CrossKDHook=('crosskd', 'gfl', 16), FGDHook=('fgd', 'fcos', 16),
    LDHook=('ld', 'gfl', 16), PKDHook=('pkd', 'fcos', 16))
every_hook = pytest.mark.parametrize('name', HOOKS)


def config(detectors, folder, name, **changes):
    _, detector, width = HOOKS[name]
    return detectors.config(folder, detector, dict(
        type=f'mmselfkd.{name}', teacher=detectors.teacher(detector, width)),
        # features of a random teacher are large
        **{'optim_wrapper.clip_grad': dict(max_norm=1.), **changes})


@every_hook
def test_preset_is_the_documented_one(root, detectors, name):
    folder, detector, _ = HOOKS[name]
    hook = getattr(mmselfkd, name)(teacher=detectors.teacher(detector))
    assert documented(root, folder) == {
        loss.name: [loss.loss_name, source_cell(loss),
                    f'{loss.loss_weight:g}', '-']
        for loss in hook.plan.losses}
    assert all(loss.schedule is None for loss in hook.plan.losses)
    assert hook.plan.task_schedule is None


@every_hook
def test_a_run_logs_its_losses_and_leaves_a_stock_student(
        detectors, tmp_path, name):
    cfg = config(detectors, tmp_path, name)
    runner, logs = train(cfg)
    keys = {f'distill.{key}' for key in getattr(mmselfkd, name).preset}
    for entry in logs.entries:
        assert {key for key in entry
                if key.startswith('distill.loss')} == keys
        assert all(entry[key] > 0 for key in keys), entry
        parts = [v for key, v in entry.items()
                 if 'loss' in key and key != 'loss']
        assert entry['loss'] == pytest.approx(sum(parts), rel=1e-5)
    assert_stock(load(tmp_path, 2), dict(cfg.model, _scope_='mmdet'))
    assert_clean(runner)


@every_hook
def test_two_and_two_are_four(detectors, tmp_path, name):
    cfg = config(detectors, tmp_path, name, **{'train_cfg.max_iters': 4})
    stop_and_go(detectors.without_chance(cfg), tmp_path)


def test_losses_on_boxes_are_refused_where_there_are_none(tmp_path):
    cfg = tiny_runs.config(tmp_path, dict(
        type='mmselfkd.FGDHook', teacher=tiny_runs.teacher()))
    with pytest.raises(ConfigError, match=(
            r"FGDHook\.losses\.loss_fgd: FGDLoss looks at the boxes .*of this "
            "EncoderDecoder have none; distil a detector, or.*'MGDLoss'")):
        train(cfg)


def test_foreground_is_refused_by_a_loss_with_objects(detectors, tmp_path):
    with pytest.raises(ConfigError, match=r'loss_fgd\.foreground = 0\.5'):
        mmselfkd.FGDHook(
            teacher=detectors.teacher('fcos'),
            losses=dict(loss_fgd=dict(foreground=0.5)))


@pytest.mark.parametrize('name', ['fcos', 'detr'])
def test_ld_is_refused_where_boxes_are_no_distributions(
        detectors, tmp_path, name):
    hook = dict(type='mmselfkd.LDHook', teacher=detectors.teacher(name))
    with pytest.raises(ConfigError, match=(
            r"loss_ld\.source = .*'boxes'}: LDLoss compares the distribut.*"
            r"of the student gives values.*GFL.*'ValueLoss'")):
        train(detectors.config(tmp_path, name, hook))


def test_ld_needs_equally_many_bins(detectors, tmp_path):
    teacher = detectors.teacher('gfl')
    teacher['config']['model']['bbox_head']['reg_max'] = 7
    hook = dict(type='mmselfkd.LDHook', teacher=teacher)
    with pytest.raises(ConfigError, match='17 bins.*4 sides of 8 bins.*reg_m'):
        train(detectors.config(tmp_path, 'gfl', hook))
