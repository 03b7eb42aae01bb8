"""Students that teach themselves, on a real Runner: no checkpoint needed."""
import copy

import pytest
import torch
from helpers import (
    KD,
    NO_DROPOUT,
    assert_equal,
    assert_stock,
    assert_untouched,
    load,
    pair,
)
from helpers import train as train_config
from test_resume import stop_and_go

from mmselfkd import ConfigError, FRSKDHook
from mmselfkd.registry import HOOKS as HOOK_CLASSES

NOW = dict(schedule=None)  # FRSKD: no ramp, so that two iterations show it
HOOKS = dict(
    frskd=dict(type='mmselfkd.FRSKDHook',
               losses=dict(loss_at=NOW, loss_kd=NOW),
               teacher=dict(
                   type='SelfTeacher', head=dict(type='SegformerHead'))),
    mixskd=dict(type='mmselfkd.MixSKDHook'),
    tfd=dict(type='mmselfkd.TFDHook'),
    ka_dtd=dict(type='mmselfkd.KADTDHook'),
    ema=dict(type='mmselfkd.DistillHook',
             teacher=dict(type='EMATeacher', momentum=0.1),
             losses=dict(loss_kd=KD)),
    snapshot=dict(
        type='mmselfkd.NFDHook', teacher=dict(
            type='SnapshotTeacher', interval=1)))
KEYS = dict(
    frskd={'loss_at', 'loss_kd', 'teacher.loss_ce'},
    mixskd={'loss_fea', 'loss_dis', 'loss_b', 'loss_f',
            'teacher.loss_branches', 'teacher.loss_mixed',
            'teacher.loss_aggregated'},
    tfd={'loss_inter', 'loss_intra'}, ka_dtd={'loss_kd'}, ema={'loss_kd'},
    snapshot={'loss_nfd'})
EXTRA = ('frskd', 'mixskd')  # with parameters of their own


def train(tiny, tmp_path, hook, *others, pipeline=(), **changes):
    cfg = tiny.config(tmp_path, copy.deepcopy(hook), *others,
                      **dict(NO_DROPOUT, **changes))
    cfg.train_dataloader.dataset.pipeline[2:2] = pipeline
    runner, logs = train_config(cfg)
    return runner, logs.entries


@pytest.mark.parametrize('method', HOOKS)
def test_stock_student_and_logged_losses(tiny, tmp_path, method):
    runner, logs = train(tiny, tmp_path, HOOKS[method], iters=3)
    for log in logs:
        assert {k.removeprefix('distill.') for k in log
                if k.startswith('distill.') and 'loss' in k} == KEYS[method]
        assert log['loss'] == pytest.approx(sum(
            v for k, v in log.items() if 'loss_' in k), rel=1e-5)
    assert all(logs[-1][f'distill.{key}'] > 0 for key in KEYS[method])

    saved = load(tmp_path, 3)
    plain = assert_stock(saved, runner.cfg.model)
    assert len(saved['optimizer']['param_groups'][0]['params']) == len(
        list(plain.parameters()))
    assert bool(saved['mmselfkd']['modules']) == (method in EXTRA)
    assert [n for n, _ in runner.model.named_modules()] == [
        n for n, _ in plain.named_modules()]
    assert_untouched(runner.model)


@pytest.mark.parametrize('method', HOOKS)
def test_predictions_are_those_of_the_saved_student(tiny, tmp_path, method):
    """During training too: validation sees the student alone."""
    runner, _ = train(tiny, tmp_path, HOOKS[method])
    plain = assert_stock(load(tmp_path, 2), tiny.model(4))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x, mode='tensor'),
                           runner.model.eval()(x, mode='tensor'))


@pytest.mark.parametrize('method, extra', [
    *((method, ()) for method in HOOKS),
    *((method, (dict(type='EMAHook'), )) for method in EXTRA)])
def test_two_and_two_are_four(tiny, tmp_path, method, extra):
    """Bit for bit, in the same order of the data."""
    whole, resumed = stop_and_go(tiny.config(
        tmp_path, copy.deepcopy(HOOKS[method]), *extra, iters=4), tmp_path)
    if extra:
        assert_equal(whole['ema_state_dict'], resumed['ema_state_dict'])


@pytest.mark.parametrize('method', HOOKS)
def test_all_ignored_labels_are_finite(tiny, tmp_path, method):
    runner, logs = train(tiny, tmp_path, HOOKS[method],
                         pipeline=[dict(type='IgnoreAllLabels')])
    for log in logs:
        assert all(torch.isfinite(torch.tensor(v)) for v in log.values())
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


@pytest.mark.parametrize('method', EXTRA)
def test_what_is_trained_along_learns(tiny, tmp_path, method):
    train(tiny, tmp_path, HOOKS[method], iters=3)
    first, last = (load(tmp_path, i)['mmselfkd'] for i in (1, 3))
    assert first['modules'].keys() == last['modules'].keys()
    parameters = [n for n in first['modules'] if n.endswith('weight')]
    assert parameters
    for name in parameters:
        assert not torch.equal(first['modules'][name],
                               last['modules'][name]), name


def test_mixskd_trains_a_discriminator_for_each_stage(tiny, tmp_path):
    train(tiny, tmp_path, HOOKS['mixskd'], iters=3)
    first, last = (
        load(tmp_path, i)['mmselfkd']['discriminators']['loss_dis']['losses']
        for i in (1, 2))
    assert {name.split('.')[0] for name in first} == {'0', '1', '2', '3'}
    for name in first:
        assert not torch.equal(first[name], last[name]), name


def test_frskd_starts_when_its_ramp_does(tiny, tmp_path):
    """Two thirds of the run the self-teacher learns, then it teaches."""
    _, logs = train(tiny, tmp_path, dict(type='mmselfkd.FRSKDHook'), iters=6)
    for key in ('distill.loss_at', 'distill.loss_kd'):
        assert [log[key] > 0 for log in logs] == [False] * 4 + [True] * 2
    assert all(log['distill.teacher.loss_ce'] > 0 for log in logs)
    assert not any('distill.agreement' in log for log in logs)


def test_frskd_on_other_levels(tiny, tmp_path):
    """The loss on features follows the source of the self-teacher."""
    hook = dict(HOOKS['frskd'], teacher=dict(
        type='SelfTeacher', source=['backbone[1]', 'backbone[3]']))
    loss = FRSKDHook(**{k: v for k, v in hook.items() if k != 'type'}
                     ).plan.losses[0]
    assert loss.name == 'loss_at'
    assert [path for _, path in loss.student_sources] == [
        'backbone[1]', 'backbone[3]']
    train(tiny, tmp_path, hook)
    modules = load(tmp_path, 2)['mmselfkd']['modules']
    assert any(name.startswith('teacher.neck') for name in modules)


def test_teachers_wait_until_they_are_ready(tiny, tmp_path):
    kd = dict(type='mmselfkd.DistillHook', losses=dict(loss_kd=KD))
    _, logs = train(tiny, tmp_path / 'a', dict(kd, teacher=dict(
        type='EMATeacher', begin=2)), iters=4)
    assert [log['distill.loss_kd'] > 0 for log in logs] == [
        False, False, True, True]
    _, logs = train(tiny, tmp_path / 'b', dict(kd, teacher=dict(
        type='SnapshotTeacher', interval=1, by_epoch=True)), iters=6)
    assert [log['distill.loss_kd'] > 0 for log in logs] == [
        False] * 4 + [True] * 2  # 8 images in batches of 2
    assert not any('distill.agreement' in log for log in logs)


def test_a_weight_of_zero_is_the_plain_run(tiny, tmp_path):
    plain, _ = train_config(tiny.config(tmp_path / 'a', **NO_DROPOUT))
    for method, hook in HOOKS.items():
        hook = copy.deepcopy(hook)
        preset = HOOK_CLASSES.get(hook['type'].split('.')[1]).preset
        losses = hook.setdefault('losses', {})
        for name in [*preset, *losses]:
            losses[name] = dict(losses.get(name, {}), loss_weight=0.)
        runner, logs = train(tiny, tmp_path / method, hook)
        assert not any(name.startswith('distill.') for log in logs
                       for name in log)
        assert_equal(plain.model.state_dict(), runner.model.state_dict())


def test_tfd_costs_no_parameter_and_leaves_the_deepest_stage(tiny, tmp_path):
    """Only shallower stages learn: what teaches is detached."""
    _, logs = train(tiny, tmp_path, dict(
        type='mmselfkd.TFDHook', losses=dict(
            loss_inter=dict(schedule=None), loss_intra=None)))
    assert not load(tmp_path, 2)['mmselfkd']['modules']
    assert all(log['distill.loss_inter'] > 0 for log in logs)
    assert 0 <= logs[0]['distill.cka'] <= 1


def test_several_teachers_one_of_them_itself(tiny, tmp_path):
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(big=tiny.teacher(), me=dict(type='EMATeacher'),
                     refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_big=dict(KD, source=pair('logits', 'big:logits')),
            loss_me=dict(KD, source=pair('logits', 'me:logits')),
            loss_at=dict(
                type='ATLoss', source=pair('backbone', 'refined:neck'))))
    _, logs = train(tiny, tmp_path, hook)
    assert {k for k in logs[1] if k.startswith('distill.')} == {
        'distill.loss_big', 'distill.loss_me', 'distill.loss_at',
        'distill.refined.loss_ce'}
    assert set(load(tmp_path, 2)['mmselfkd']['teachers']) == {'me'}


@pytest.mark.parametrize('hook, changes, says', [
    (dict(type='mmselfkd.MixSKDHook'), {'train_dataloader.batch_size': 1},
     ['train_dataloader.batch_size = 1', 'two or more']),
    (dict(type='mmselfkd.FRSKDHook'), {'model.backbone.out_indices': (3, ),
                                       'model.decode_head.in_index': 0,
                                       'model.auxiliary_head': None},
     ['FRSKDHook.teacher.neck', 'two or more']),
    (dict(type='mmselfkd.MixSKDHook'), {'model.backbone.out_indices': (3, ),
                                        'model.decode_head.in_index': 0,
                                        'model.auxiliary_head': None},
     ["MixSKDHook.teacher.source = 'backbone'", 'one level']),
    (dict(type='mmselfkd.TFDHook'), {'model.backbone.out_indices': (3, ),
                                     'model.decode_head.in_index': 0,
                                     'model.auxiliary_head': None},
     ['TFDHook.losses.loss_inter.source', 'two levels']),
    (dict(type='mmselfkd.KADTDHook', teacher=dict(
        type='EMATeacher', momentum=0.999)), {},
     ['KADTDHook.teacher.momentum = 0.999', 'momentum=0.001']),
    (dict(type='mmselfkd.KADTDHook', teacher=dict(type='EMATeachr')), {},
     ["KADTDHook.teacher.type = 'EMATeachr'", "nearest: 'EMATeacher'"]),
    (dict(type='mmselfkd.KADTDHook', losses=dict(loss_kd=dict(
        dynamic_temperature=dict(type='FLSW', gamma=-1.)))), {},
     ['KADTDHook.losses.loss_kd', 'gamma', '-1.0']),
    (dict(type='mmselfkd.KADTDHook', losses=dict(loss_kd=dict(
        temperature=0.))), {},
     ['KADTDHook.losses.loss_kd', 'temperature', '0.0']),
    (dict(type='mmselfkd.KADTDHook', losses=dict(loss_kd=dict(
        adjust=dict(type='ProbabilityShft')))), {},
     ['KADTDHook.losses.loss_kd', "nearest: 'ProbabilityShift'"]),
    (dict(type='mmselfkd.DistillHook', losses=dict(loss_kd=KD)), {},
     ['DistillHook.teacher = None', 'EMATeacher']),
    (dict(type='mmselfkd.MixSKDHook', losses=dict(loss_fea=dict(
        source=dict(student='teachr:interpolated.features',
                    teacher='mixed.features')))), {},
     ["no teacher 'teachr'", "nearest: 'teacher'"]),
])
def test_errors_before_training(tiny, tmp_path, hook, changes, says):
    with pytest.raises(ConfigError) as error:
        cfg = tiny.config(tmp_path, hook)
        for name, value in changes.items():
            if value is None:
                cfg.model.pop('auxiliary_head')
            else:
                cfg.merge_from_dict({name: value})
        tiny.build(cfg).train()
    for part in says:
        assert part in str(error.value), str(error.value)
