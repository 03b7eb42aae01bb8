"""What the method hooks fill in, and the heads they work with unchanged."""
import re
from fractions import Fraction

import pytest
import tiny_runs
import torch
from helpers import KD, NO_DROPOUT, At, load, teacher_model, train
from torch import nn

from mmselfkd import (
    AICSDHook,
    FRSKDHook,
    ICSDHook,
    KADTDHook,
    MixSKDHook,
    NFDHook,
    SKDHook,
    TFDHook,
)
from mmselfkd.losses import KDLoss, NFDLoss
from mmselfkd.schedules import LinearRamp
from mmselfkd.sources import STUDENT

HOOKS = dict(aicsd=AICSDHook, icsd=ICSDHook, nfd=NFDHook, skd=SKDHook)
ALONE = dict(
    frskd=FRSKDHook, ka_dtd=KADTDHook, mixskd=MixSKDHook, tfd=TFDHook)
TEACHER = dict(config='never read here', checkpoint='random')


def run(tiny, tmp_path, hook, *extra, student=None, **changes):
    """Train; returns the runner and the entries logged in each step."""
    changes.setdefault('iters', 1)
    cfg = tiny.config(tmp_path, hook, **changes)
    if student is not None:
        cfg.model = student
    runner, logs = train(cfg, *extra)
    return runner, logs.entries


class Witness:
    """Sees what enters and leaves the classifiers, by hooks of its own."""

    def __init__(self):
        self.seen, self.handles = {}, []
        self.hook = At(before_train_iter=self.attach,
                       after_train_iter=self.remove)

    def attach(self, runner, **_):
        for name, host in (('student', runner.model),
                           ('teacher', teacher_model(runner))):
            head = host.decode_head
            head = head[-1] if isinstance(head, nn.ModuleList) else head
            # in front of the tap, which ends the teacher's forward pass
            self.handles.append(
                head.conv_seg.register_forward_hook(
                    self.see(name), prepend=True))

    def remove(self, runner, **_):
        for handle in self.handles:
            handle.remove()

    def see(self, name):
        def keep(module, args, out):
            assert name not in self.seen
            self.seen[name] = (args[0].detach(), out.detach())
        return keep


def documented(root, method):
    """Rows of the table in the method's README, by key."""
    text = (root / 'configs' / method / 'README.md').read_text()
    table = text.split('| key | loss | source | weight | schedule |')[1]
    rows = re.findall(r'^\| (.+) \|$', table.split('\n\n')[0], re.MULTILINE)
    cells = [row.replace('`', '').split(' | ') for row in rows[1:]]
    return {key: rest for key, *rest in cells}


def source_cell(loss):
    """One source for both, or 'student / teacher', each of one or more."""
    ours = [source if owner == STUDENT else f'{owner}:{source}'
            for owner, source in loss.student_sources]
    theirs = [source for _, source in loss.teacher_sources]
    return ' / '.join(
        ', '.join(side) for side in ([ours] if ours == theirs else
                                     [ours, theirs]))


def schedule_cell(schedule):
    """First and last factor of a line; where it is not the whole run."""
    if schedule is None:
        return '-'
    length = 120
    schedule.resolve(length)
    cell = f'{schedule.factor(0):g} to {schedule.factor(length):g}'
    if isinstance(schedule, LinearRamp):
        middle = schedule.factor((schedule.begin + schedule.end) // 2)
        assert middle == 0.5
    else:
        cell = f'{type(schedule).__name__}: {cell}'
    if schedule.begin > 0:
        cell += f' from {Fraction(schedule.begin, length)} of the run'
    if schedule.end < length:
        cell += f' until {Fraction(schedule.end, length)} of the run'
    return cell


@pytest.mark.parametrize('method', [*HOOKS, *ALONE])
def test_preset_is_the_documented_one(method, root):
    hook = ALONE[method]() if method in ALONE else HOOKS[method](
        teacher=TEACHER)
    rows = documented(root, method)
    task = rows.pop('task loss', [..., ..., ..., '-'])
    assert schedule_cell(hook.plan.task_schedule) == task[-1]
    assert {
        loss.name: [
            type(loss.loss).__name__, source_cell(loss),
            f'{loss.loss_weight:g}', schedule_cell(loss.schedule)
        ] for loss in hook.plan.losses
    } == rows
    for loss in hook.plan.losses:
        if isinstance(loss.loss, KDLoss):  # unlabelled pixels distil too
            labelled_only = method in ('ka_dtd', 'mixskd')
            assert loss.loss.ignore_index == (
                'head' if labelled_only else None)


@pytest.mark.parametrize('head', tiny_runs.HEADS)
def test_nothing_but_a_teacher_is_needed(tiny, tmp_path, head):
    hook = dict(
        type='mmselfkd.NFDHook',
        teacher=dict(
            config=dict(model=tiny.segmentor(head, 8), default_scope='mmseg'),
            checkpoint='random'))
    _, (log, ) = run(tiny, tmp_path, hook, student=tiny.segmentor(head, 4))
    assert log['distill.loss_nfd'] > 0
    parts = [v for k, v in log.items() if 'loss' in k and k != 'loss']
    assert log['loss'] == pytest.approx(sum(parts))


@pytest.mark.parametrize('head', tiny_runs.HEADS)
def test_aliases_are_what_enters_and_leaves_the_classifier(
        tiny, tmp_path, head, spy):
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            config=dict(model=tiny.segmentor(head, 8), default_scope='mmseg'),
            checkpoint='random'),
        losses=dict(
            loss_features=dict(type='Spy', source='features'),
            loss_logits=dict(type='Spy', source='logits')))
    witness = Witness()
    run(tiny, tmp_path, hook, witness.hook, student=tiny.segmentor(head, 4))
    features, logits = spy.calls[-2:]

    entered, left = witness.seen['teacher']
    assert torch.equal(features[1], entered)  # in eval nothing is dropped
    assert torch.equal(logits[1], left)
    entered, left = witness.seen['student']
    assert torch.equal(logits[0], left)
    # the student's classifier gets the features without the dropped channels
    kept = entered.flatten(2).any(2)[..., None, None].expand_as(entered)
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(entered[kept], 2 * features[0][kept])


def test_any_head_teaches_any_other(tiny, tmp_path):
    hook = dict(
        type='mmselfkd.SKDHook',
        teacher=dict(
            config=dict(model=tiny.segmentor('OCR', 8), default_scope='mmseg'),
            checkpoint='random'))
    _, (log, ) = run(tiny, tmp_path, hook,
                     student=tiny.segmentor('SegFormer', 4))
    assert log['distill.loss_pi'] > 0 and log['distill.loss_pa'] > 0
    assert log['distill.loss_ho'] != 0


@pytest.mark.parametrize('off', ['loss_pi', 'loss_pa', 'loss_ho'])
def test_each_term_of_skd_can_be_off(tiny, tmp_path, off):
    hook = dict(
        type='mmselfkd.SKDHook', teacher=tiny.teacher(), losses={off: None})
    _, (log, ) = run(tiny, tmp_path, hook)
    assert {key for key in log if key.startswith('distill.loss')} == {
        f'distill.{key}'
        for key in ('loss_pi', 'loss_pa', 'loss_ho') if key != off
    }
    saved = load(tmp_path, 1)
    assert bool(saved['mmselfkd']['discriminators']) == (off != 'loss_ho')


def test_overrides_change_only_what_they_name():
    nfd, kd = NFDHook(
        teacher=TEACHER,
        losses=dict(
            loss_nfd=dict(dims='nhw', loss_weight=3.0),
            loss_kd=dict(KD, temperature=2.0))).plan.losses
    assert (nfd.name, nfd.loss_weight, nfd.loss.dims) == ('loss_nfd', 3.0,
                                                          'nhw')
    assert isinstance(nfd.loss, NFDLoss)
    assert nfd.student_sources == [(STUDENT, 'features')]
    assert (kd.name, kd.loss_weight, kd.loss.temperature) == ('loss_kd', 1.0,
                                                              2.0)
    unharmed, = NFDHook(teacher=TEACHER).plan.losses
    assert unharmed.loss.dims == 'hw'


def test_another_type_replaces_the_whole_entry():
    loss, = NFDHook(teacher=TEACHER, losses=dict(loss_nfd=KD)).plan.losses
    assert isinstance(loss.loss, KDLoss)
    assert loss.student_sources == [(STUDENT, 'logits')]
    assert loss.loss_weight == 1.0


def test_aicsd_turns_from_the_teacher_to_the_labels(tiny, tmp_path):
    """With a learning rate of 0 only the weights of the terms move."""
    def logged(name, hook, iters):
        changes = {
            'optim_wrapper.optimizer.lr': 0.,
            'param_scheduler': None,
            'train_dataloader.sampler.shuffle': False,
            'train_dataloader.dataset.length': 2,
            'train_dataloader.dataset.pipeline': [
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs')],
            **NO_DROPOUT
        }
        hook = dict(hook, teacher=tiny.teacher())
        return run(tiny, tmp_path / name, hook, iters=iters, **changes)[1]

    kd = dict(KD, ignore_index=None, loss_weight=20 / 7)
    raw, = logged(
        'raw', dict(type='mmselfkd.ICSDHook', losses=dict(loss_kd=kd)), 1)
    steps = logged('aicsd', dict(type='mmselfkd.AICSDHook'), 4)
    assert min(raw[key] for key in raw if 'loss' in key) > 0
    for iteration, log in enumerate(steps):
        alpha = iteration / 4
        for key, share in {
                'decode.loss_ce': alpha, 'aux.loss_ce': alpha,
                'distill.loss_icsd': alpha, 'distill.loss_kd': 1 - alpha
        }.items():
            assert log[key] == pytest.approx(
                share * raw[key], rel=1e-4), (iteration, key)
        assert log['loss'] == pytest.approx(
            sum(v for k, v in log.items() if 'loss_' in k), rel=1e-4)
