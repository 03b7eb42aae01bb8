"""Several hooks in one run: one teacher, one forward, every loss."""
import copy

import pytest
import torch
from mmengine.hooks import Hook

from mmselfkd import ConfigError, DistillHook, FrozenTeacher, NFDHook, TFDHook
from mmselfkd.hooks.plan import joined

KD = dict(type='KDLoss', source='logits')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]  # nothing random


def kd_hook(teacher, **more):
    return dict(type='mmselfkd.DistillHook', teacher=teacher,
                losses=dict(loss_kd=dict(KD)), **more)


def nfd_hook(teacher, **more):
    return dict(type='mmselfkd.NFDHook', teacher=teacher, **more)


class Watch(Hook):
    """Logs, and how often the backbone of each teacher ran."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.logs, self.ran, self.lines = [], {}, []

    def before_train(self, runner):
        hook, = [h for h in runner.hooks if isinstance(h, DistillHook)]
        for name, teacher in hook.teachers.items():
            if not hasattr(teacher, 'model'):  # the student teaches itself
                continue
            self.ran[name] = 0
            teacher.model.backbone.register_forward_hook(
                lambda *_, name=name: self.ran.update(
                    {name: self.ran[name] + 1}))

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.logs.append({k: float(v.detach()) for k, v in outputs.items()})


def train(tiny, work_dir, *hooks, **changes):
    runner = tiny.build(tiny.config(
        work_dir, *copy.deepcopy(hooks), **changes))
    watch = Watch()
    runner.register_hook(watch)
    before = [type(hook) for hook in runner.hooks
              if isinstance(hook, DistillHook)]
    runner.train()
    after = [type(hook) for hook in runner.hooks
             if isinstance(hook, DistillHook)]
    assert sorted(map(str, before)) == sorted(map(str, after))
    return watch, runner


def test_two_hooks_are_one_with_all_losses(tiny, tmp_path):
    """The equal teacher is one, which runs once a step; same training."""
    big = tiny.teacher()
    both, runner = train(tiny, tmp_path / 'a', nfd_hook(big), kd_hook(big))
    assert both.ran == dict(teacher=2)
    whole, expected = train(tiny, tmp_path / 'b', nfd_hook(
        big, losses=dict(loss_kd=KD)))
    assert both.logs == whole.logs
    assert {'distill.loss_nfd', 'distill.loss_kd'} <= both.logs[0].keys()
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name]), name
    saved = torch.load(tmp_path / 'a' / 'iter_2.pth', weights_only=False)
    assert list(saved['mmselfkd']['modules']) == [
        'loss_nfd.0.weight', 'loss_nfd.0.bias']


def test_two_hooks_resume(tiny, tmp_path):
    hooks = nfd_hook(tiny.teacher()), kd_hook(tiny.teacher())
    still = {'param_scheduler': [], 'model.decode_head.dropout_ratio': 0.,
             'model.auxiliary_head.dropout_ratio': 0.,
             'train_dataloader.dataset.pipeline': PIPELINE}
    whole, _ = train(tiny, tmp_path / 'a', *hooks, iters=4, **still)
    train(tiny, tmp_path / 'b', *hooks, **still)
    rest, _ = train(tiny, tmp_path / 'b', *hooks, iters=4, resume=True,
                    **still)
    assert rest.logs == whole.logs[2:]


def test_different_teachers_stay_two(tiny, tmp_path):
    watch, _ = train(
        tiny, tmp_path, nfd_hook(tiny.teacher(8)), kd_hook(tiny.teacher(12)))
    assert watch.ran == dict(teacher=2, teacher_2=2)
    assert watch.logs[0]['distill.loss_nfd'] > 0
    assert watch.logs[0]['distill.loss_kd'] > 0


def test_without_and_with_a_teacher(tiny, tmp_path):
    watch, _ = train(tiny, tmp_path, dict(type='mmselfkd.TFDHook'),
                     kd_hook(dict(a=tiny.teacher())))
    assert {'distill.loss_inter', 'distill.loss_intra',
            'distill.loss_kd'} <= watch.logs[0].keys()


def test_joined_renames_teachers_and_keeps_the_plans():
    a, b = dict(config='a.py', checkpoint='a'), dict(config='b', checkpoint='')
    first = DistillHook(
        teacher=dict(x=a, y=b), losses=dict(
            loss_x=dict(KD, source=dict(student='logits', teacher='x:neck')),
            loss_y=dict(KD, source=dict(student='logits', teacher='y:neck'))))
    second = DistillHook(
        teacher=dict(x=b, y=dict(type='EMATeacher')), losses=dict(
            loss_b=dict(KD, source=dict(student='logits', teacher='x:neck')),
            loss_e=dict(KD, source=dict(student='logits', teacher='y:neck'))),
        inherit='x:neck', task_schedule=dict(type='LinearRamp'))
    first, second = first.plan, second.plan
    whole = joined([first, second])
    assert {name: cfg for name, (_, cfg) in whole.teachers.items()} == dict(
        x=a, y=b, y_2=dict(type='EMATeacher'))
    assert {term.name: term.teachers for term in whole.terms} == dict(
        loss_x=['x'], loss_y=['y'], loss_b=['y'], loss_e=['y_2'])
    assert whole.inherit == [('DistillHook.inherit', 'y', 'neck')]
    assert whole.task_schedule is second.task_schedule
    assert [term.teachers for term in second.terms] == [['x'], ['y']]
    assert len(first.terms) == 2 and list(first.teachers) == ['x', 'y']


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
