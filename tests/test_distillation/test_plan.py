"""Several hooks in one run: one teacher, one forward, every loss."""
import copy

import pytest
from helpers import (
    KD,
    NO_DROPOUT,
    At,
    assert_equal,
    distillation,
    keep_order,
    load,
    pair,
)
from helpers import train as train_config

from mmselfkd import ConfigError, DistillHook, FrozenTeacher, NFDHook, TFDHook
from mmselfkd.distillation import joined


def kd_hook(teacher, **more):
    return dict(type='mmselfkd.DistillHook', teacher=teacher,
                losses=dict(loss_kd=dict(KD)), **more)


def nfd_hook(teacher, **more):
    return dict(type='mmselfkd.NFDHook', teacher=teacher, **more)


def train(cfg):
    """Runner, log, and how often the backbone of each teacher ran."""
    ran = {}

    def count(runner):
        for name, teacher in distillation(runner).teachers.items():
            if not hasattr(teacher, 'model'):  # the student teaches itself
                continue
            ran[name] = 0
            teacher.model.backbone.register_forward_hook(
                lambda *_, name=name: ran.update({name: ran[name] + 1}))

    before = [hook['type'] for hook in cfg.custom_hooks]
    runner, logs = train_config(cfg, At(before_train=count))
    after = [f'mmselfkd.{type(hook).__name__}' for hook in runner.hooks
             if isinstance(hook, DistillHook)]
    assert sorted(before) == sorted(after)
    return runner, logs.entries, ran


def test_two_hooks_are_one_with_all_losses(tiny, tmp_path):
    """The equal teacher is one, which runs once a step; same training."""
    big = tiny.teacher()
    runner, both, ran = train(tiny.config(
        tmp_path / 'a', nfd_hook(big), kd_hook(big)))
    assert ran == dict(teacher=2)
    expected, whole, _ = train(tiny.config(
        tmp_path / 'b', nfd_hook(big, losses=dict(loss_kd=KD))))
    assert both == whole
    assert {'distill.loss_nfd', 'distill.loss_kd'} <= both[0].keys()
    assert_equal(expected.model.state_dict(), runner.model.state_dict())
    saved = load(tmp_path / 'a', 2)['mmselfkd']['modules']
    assert_equal(saved, load(tmp_path / 'b', 2)['mmselfkd']['modules'])
    assert saved and all(name.startswith('loss_nfd.') for name in saved)


def test_two_hooks_resume(tiny, tmp_path):
    hooks = nfd_hook(tiny.teacher()), kd_hook(tiny.teacher())

    def go(name, **changes):
        cfg = tiny.config(tmp_path / name, *copy.deepcopy(hooks),
                          param_scheduler=[], **NO_DROPOUT, **changes)
        keep_order(cfg)
        cfg.train_dataloader.sampler.shuffle = True
        return train(cfg)[1]

    whole = go('a', iters=4)
    go('b')
    assert go('b', iters=4, resume=True) == whole[2:]


def test_different_teachers_stay_two(tiny, tmp_path):
    _, logs, ran = train(tiny.config(
        tmp_path, nfd_hook(tiny.teacher(8)), kd_hook(tiny.teacher(12))))
    assert ran == dict(teacher=2, teacher_2=2)
    assert logs[0]['distill.loss_nfd'] > 0
    assert logs[0]['distill.loss_kd'] > 0


def test_without_and_with_a_teacher(tiny, tmp_path):
    _, logs, _ = train(tiny.config(
        tmp_path, dict(type='mmselfkd.TFDHook'),
        kd_hook(dict(a=tiny.teacher()))))
    assert {'distill.loss_inter', 'distill.loss_intra',
            'distill.loss_kd'} <= logs[0].keys()


def test_joined_renames_teachers_and_keeps_the_plans():
    a, b = dict(config='a.py', checkpoint='a'), dict(config='b', checkpoint='')
    first = DistillHook(
        teacher=dict(x=a, y=b), losses=dict(
            loss_x=dict(KD, source=pair('logits', 'x:neck')),
            loss_y=dict(KD, source=pair('logits', 'y:neck'))))
    second = DistillHook(
        teacher=dict(x=b, y=dict(type='EMATeacher')), losses=dict(
            loss_b=dict(KD, source=pair('logits', 'x:neck')),
            loss_e=dict(KD, source=pair('logits', 'y:neck'))),
        inherit='x:neck', task_schedule=dict(type='LinearRamp'))
    first, second = first.plan, second.plan
    whole = joined([first, second])
    assert {name: cfg for name, (_, cfg) in whole.teachers.items()} == dict(
        x=a, y=b, y_2=dict(type='EMATeacher'))
    assert {loss.name: loss.teachers for loss in whole.losses} == dict(
        loss_x=['x'], loss_y=['y'], loss_b=['y'], loss_e=['y_2'])
    for loss in whole.losses:
        assert [path for _, path in loss.sources] == ['logits', 'neck']
    assert whole.inherit == [('DistillHook.inherit', 'y', 'neck')]
    assert whole.task_schedule is second.task_schedule
    assert [loss.teachers for loss in second.losses] == [['x'], ['y']]
    assert len(first.losses) == 2 and list(first.teachers) == ['x', 'y']


@pytest.mark.parametrize('one, other, shared', [
    ({}, dict(type='FrozenTeacher'), True),
    (dict(type='mmselfkd.FrozenTeacher'), dict(type='FrozenTeacher'), True),
    (dict(precision='bf16'), {}, False),
    (dict(type=FrozenTeacher), {}, False)])
def test_which_teachers_are_equal(one, other, shared):
    teacher = dict(config='a.py', checkpoint='a')
    whole = joined([
        NFDHook(teacher=teacher | one).plan,
        DistillHook(teacher=teacher | other, losses=dict(loss_kd=KD)).plan])
    assert len(whole.teachers) == 2 - shared


def test_what_cannot_be_joined():
    teacher = dict(config='a.py', checkpoint='a')
    with pytest.raises(ConfigError, match=(
            r'DistillHook\.losses\.loss_nfd: .*NFDHook\.losses\.loss_nfd.*'
            r'distill\.loss_nfd')):
        joined([NFDHook(teacher=teacher).plan, DistillHook(
            teacher=teacher, losses=dict(loss_nfd=KD)).plan])
    ramp = dict(type='LinearRamp')
    with pytest.raises(ConfigError, match=r'TFDHook\.task_schedule: another'):
        joined([NFDHook(teacher=teacher, task_schedule=ramp).plan,
                TFDHook(task_schedule=ramp).plan])


def test_an_error_puts_the_hooks_back(tiny, tmp_path):
    """In the model, before the run and after it, nothing has changed."""
    hook = nfd_hook(tiny.teacher())
    runner = tiny.build(tiny.config(tmp_path, hook, copy.deepcopy(hook)))
    hooks = list(runner.hooks)
    with pytest.raises(ConfigError, match='distill.loss_nfd; rename'):
        runner.train()
    assert sorted(map(id, runner.hooks)) == sorted(map(id, hooks))
    assert not hasattr(runner.model, 'mmselfkd')
