"""The mechanism on a real Runner: losses, teacher, student, checkpoint."""
import copy
import gc
import weakref

import pytest
import torch
from helpers import (
    KD,
    NFD,
    NO_DROPOUT,
    At,
    assert_clean,
    assert_equal,
    assert_stock,
    copied,
    load,
    pair,
    teacher_model,
    train,
)
from mmengine.registry import HOOKS, DefaultScope
from mmengine.registry import MODELS as MMENGINE_MODELS

from mmselfkd import DistillHook
from mmselfkd.losses import KDLoss
from mmselfkd.registry import MODELS


def distil(tiny, losses=None, type='mmselfkd.DistillHook', **kwargs):
    kwargs.setdefault('teacher', tiny.teacher())
    return dict(type=type, losses=losses or dict(loss_kd=KD), **kwargs)


def spied(tiny, source):
    return distil(tiny, dict(loss_x=dict(type='Spy', source=source)))


def test_terms_are_logged_and_summed_into_the_loss(tiny, tmp_path):
    losses = dict(loss_kd=dict(KD, loss_weight=2.), loss_nfd=NFD)
    _, logs = train(tiny.config(tmp_path, distil(tiny, losses)))
    for log in logs.entries:
        parts = [v for k, v in log.items() if 'loss' in k and k != 'loss']
        assert log['distill.loss_kd'] > 0 and log['distill.loss_nfd'] > 0
        assert log['loss'] == pytest.approx(sum(parts), rel=1e-5)
        assert 0 <= log.get('distill.agreement', 0) <= 1
    assert 'distill.agreement' in logs.entries[0]


@pytest.mark.parametrize('losses, key', [
    (dict(loss_nfd=NFD, loss_kd=KD), 'distill.agreement'),
    (dict(loss_nfd=NFD), 'distill.cka')])
def test_agreement_is_of_class_scores_where_there_are_any(
        tiny, tmp_path, losses, key):
    """Else the similarity of features; every tenth iteration."""
    _, logs = train(tiny.config(tmp_path, distil(tiny, losses), iters=11))
    measured = [{name for name in log if name in (
        'distill.agreement', 'distill.cka')} for log in logs.entries]
    assert measured == [{key}, *[set()] * 9, {key}]
    assert 0 <= logs.entries[10][key] <= 1
    assert not any('/' in name for log in logs.entries for name in log)


def test_what_is_logged_of_class_scores_by_hand(tiny, tmp_path):
    """Of the first term that compares such, on the head's own labels."""
    seen = {}

    def watch(runner):
        def see(name):  # the first time; a validation follows
            def keep(module, args, out):
                seen.setdefault(name, out.detach())
            return keep

        model = runner.model
        for name, head in (('student', model.decode_head),
                           ('teacher', teacher_model(runner).decode_head)):
            # so that all classes are found; the heads start small
            torch.manual_seed(4)
            torch.nn.init.normal_(head.conv_seg.weight)
            # in front of the tap, behind which the teacher's pass ends
            head.conv_seg.register_forward_hook(see(name), prepend=True)
        def see_label(module, args, kwargs):
            seen.setdefault('label', torch.cat([
                sample.gt_sem_seg.data for sample in kwargs['data_samples']]))

        model.register_forward_pre_hook(see_label, with_kwargs=True)

    losses = dict(
        loss_nfd=NFD, loss_kd=KD, loss_other=dict(
            KD, source=pair('auxiliary_head.conv_seg', 'logits')))
    cfg = tiny.config(tmp_path, distil(tiny, losses, diagnose=dict(
        interval=1)), iters=1, **{'model.decode_head.ignore_index': 0,
                              'train_dataloader.batch_size': 8})
    runner, _ = train(cfg, At(before_train=watch))
    student, teacher = (seen[name].argmax(1) for name in (
        'student', 'teacher'))
    label = torch.nn.functional.interpolate(
        seen['label'][:, None].float(), student.shape[1:])[:, 0]
    counts, agree = label != 0, student == teacher
    right = counts & (teacher == label)
    wrong = counts & (teacher != label)
    expected = {
        'agreement': agree.float().mean(),
        'teacher_accuracy': right.sum() / counts.sum(),
        'agreement_right': agree[right].float().mean(),
        'agreement_wrong': agree[wrong].float().mean()}
    assert not counts.all() and right.any() and wrong.any()
    logged = {name.removeprefix('train/distill.'): buffer.current()
              for name, buffer in runner.message_hub.log_scalars.items()}
    for name, value in expected.items():
        assert 0 < value < 1
        assert logged[name] == pytest.approx(value.item()), name


def test_a_loss_sees_the_student_and_the_teacher(tiny, tmp_path, spy):
    """Against a plain forward of the same models on the same batch."""
    start = tmp_path / 'start.pth'
    plain = MODELS.build(dict(tiny.model(4), _scope_='mmseg'))
    torch.save(dict(state_dict=plain.state_dict()), start)
    teachers, batches = [], []

    def keep(runner, data_batch, **_):
        batches.append(copy.deepcopy(data_batch))
        teachers.append(teacher_model(runner))

    train(tiny.config(tmp_path, spied(tiny, 'logits'), iters=1,
                      load_from=str(start), **NO_DROPOUT),
          At(before_train_iter=keep))
    student, taught = spy.calls[-1]
    plain.train()
    plain.decode_head.dropout = plain.auxiliary_head.dropout = None
    inputs = plain.data_preprocessor(batches[0], True)['inputs']
    with torch.no_grad():
        assert torch.equal(taught, teachers[0](inputs, mode='tensor'))
        assert torch.equal(student, plain(inputs, mode='tensor'))
    assert student.requires_grad and not taught.requires_grad


def test_labels_reach_the_loss_whose_signature_asks(tiny, tmp_path, spy):
    train(tiny.config(tmp_path, distil(tiny, dict(
        loss_x=dict(type='LabelSpy', source='logits'))), iters=1))
    label = spy.calls[-1][2]
    assert label.shape == (2, 32, 32) and not label.is_floating_point()


def test_features_do_not_pass_the_dropout(tiny, tmp_path, spy):
    train(tiny.config(tmp_path, spied(tiny, 'features'), iters=1,
                      **{'model.decode_head.dropout_ratio': 0.9}))
    student = spy.calls[-1][0]
    # Dropout2d zeroes whole channels of an image; ReLU features are not
    # all zero in nine channels of ten
    alive = (student.flatten(2).abs().sum(-1) > 0).float().mean()
    assert alive > 0.5


def test_teacher_is_frozen_alone_and_without_labels(tiny, tmp_path):
    def look(runner):
        teacher = teacher_model(runner)
        return (copied(teacher.state_dict()),
                [m.training for m in teacher.modules()],
                [p.requires_grad for p in teacher.parameters()],
                hasattr(teacher, 'auxiliary_head'),
                {id(p) for p in teacher.parameters()}
                & {id(p) for g in runner.optim_wrapper.param_groups
                   for p in g['params']},
                [m for m in runner.model.modules() if m is teacher])

    _, logs = train(tiny.config(tmp_path, distil(tiny), iters=3), look=look)
    first, last = logs.seen[0], logs.seen[-1]
    assert_equal(first[0], last[0])  # BN statistics included
    assert not any(last[1]) and not any(last[2])
    assert not last[3] and not last[4] and not last[5]


def test_teacher_runs_no_deeper_than_its_deepest_tap(tiny, tmp_path):
    ran = []

    def count(runner):
        for name in ('backbone.layer1', 'backbone.layer2',
                     'backbone.layer3', 'decode_head.conv_seg'):
            teacher_model(runner).get_submodule(
                name).register_forward_pre_hook(
                    lambda m, a, name=name: ran.append(name))

    def run(source):
        ran.clear()
        train(tiny.config(tmp_path, distil(tiny, dict(loss_x=dict(
            type='PairwiseLoss', source=source))), iters=1),
            At('LOWEST', before_train=count))
        return list(ran)

    assert run('backbone.layer2') == ['backbone.layer1', 'backbone.layer2']
    assert run('logits')[-1] == 'decode_head.conv_seg'
    assert run('backbone[0]')[-1] == 'backbone.layer3'  # all four, no head


def in_teacher(**looks):
    """A hook with ``look(out)`` for modules of the teacher that have run."""
    def attach(runner):
        for name, look in looks.items():
            teacher_model(runner).backbone.get_submodule(
                name).register_forward_hook(
                    lambda module, args, out, look=look: look(out))

    return At('LOWEST', before_train=attach)


def test_teacher_runs_once_for_all_losses(tiny, tmp_path):
    ran = []
    losses = dict(
        loss_kd=KD, loss_ho=dict(type='HolisticLoss', source='logits'),
        loss_pa=dict(type='PairwiseLoss', source='features'),
        loss_at=dict(type='ATLoss', source='backbone'))
    train(tiny.config(tmp_path, distil(tiny, losses), iters=3),
          in_teacher(layer4=ran.append))
    assert len(ran) == 3


def test_nothing_is_kept_of_a_step(tiny, tmp_path, spy):
    """What no tap needs goes at once, the rest with the step."""
    passed, alive = [], []

    class Look(spy):

        def forward(self, student, teacher):
            alive.append([ref() is not None for ref in passed])
            return super().forward(student, teacher)

    def held(runner):
        spy.calls.clear()
        return sum(x.numel() for x in gc.get_objects()
                   if isinstance(x, torch.Tensor))

    MMENGINE_MODELS.register_module(module=Look)
    gc.collect()
    gc.disable()
    try:
        losses = dict(loss_kd=KD, loss_x=dict(type='Look', source='logits'))
        _, logs = train(
            tiny.config(tmp_path, distil(tiny, losses), iters=5),
            in_teacher(**dict.fromkeys(
                ('layer1', 'layer4'),
                lambda out: passed.append(weakref.ref(out)))), look=held)
    finally:
        gc.enable()
        MMENGINE_MODELS.module_dict.pop('Look')
    assert [len(each) for each in alive[-5:]] == [2, 4, 6, 8, 10]
    assert not any(map(any, alive[-5:]))
    assert len(set(logs.seen[1:])) == 1


@pytest.mark.parametrize('change', [
    dict(mean=[100., 110., 120.]), dict(std=[50., 60., 70.]),
    dict(bgr_to_rgb=False),
    dict(mean=[10., 20., 30.], std=[3., 4., 5.], bgr_to_rgb=False),
    dict(mean=None, std=None),
])
def test_teacher_gets_its_own_normalisation(tiny, tmp_path, change):
    seen, batches, teachers = [], [], []

    def look(runner):
        teachers.append(teacher_model(runner))
        teachers[0].backbone.register_forward_pre_hook(
            lambda m, args: seen.append(args[0]))

    train(tiny.config(
        tmp_path, distil(tiny, teacher=tiny.teacher(**change)), iters=1),
        At('LOWEST', before_train=look,
           before_train_iter=lambda runner, data_batch, **_: batches.append(
               copy.deepcopy(data_batch))))
    expected = teachers[0].data_preprocessor(batches[0], True)['inputs']
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_checkpoint_is_a_stock_student(tiny, tmp_path):
    """Same keys and size as a plain run's; loads; predicts the same."""
    losses = dict(loss_kd=KD, loss_nfd=NFD)
    runner, _ = train(tiny.config(tmp_path / 'a', distil(tiny, losses)))
    train(tiny.config(tmp_path / 'b'))
    ours, plain = (load(tmp_path / x, 2) for x in 'ab')
    assert list(ours['state_dict']) == list(plain['state_dict'])
    assert set(ours['state_dict']._metadata) == set(
        plain['state_dict']._metadata)
    assert set(ours) - set(plain) == {'mmselfkd'}
    assert [g['params'] for g in ours['optimizer']['param_groups']] == [
        g['params'] for g in plain['optimizer']['param_groups']]
    assert ours['optimizer']['state'].keys() == plain['optimizer'][
        'state'].keys()
    # the adapter is the one thing more, by the name of its loss
    assert sorted(tuple(x.shape) for x in ours['mmselfkd'][
        'modules'].values()) == [(16, ), (16, 8, 1, 1)]
    assert all(name.startswith('loss_nfd.')
               for name in ours['mmselfkd']['modules'])
    model = assert_stock(ours, tiny.model(4))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), runner.model.eval()(x))
    small = (tmp_path / 'a/iter_2.pth').stat().st_size
    assert small < 1.1 * (tmp_path / 'b/iter_2.pth').stat().st_size


def test_a_plain_run_resumes_from_our_checkpoint(tiny, tmp_path):
    train(tiny.config(tmp_path, distil(tiny, dict(loss_nfd=NFD)), iters=1))
    runner, _ = train(tiny.config(tmp_path, iters=2, resume=True))
    assert runner.iter == 2


@pytest.mark.parametrize('losses', [
    dict(loss_kd=dict(KD, loss_weight=0.)),
    dict(loss_nfd=dict(NFD, loss_weight=0.),
         loss_pa=dict(type='PairwiseLoss', source='features', loss_weight=0)),
    dict(loss_nfd=dict(NFD, schedule=dict(
        type='LinearRamp', begin=3, end=4))),
])
def test_weight_zero_is_bit_for_bit_the_plain_student(
        tiny, tmp_path, losses, spy):
    losses = dict(losses, loss_spy=dict(type='Spy', source='logits',
                                        schedule=dict(type='LinearRamp',
                                                      begin=3, end=4)))
    ours, _ = train(tiny.config(tmp_path / 'a', distil(tiny, losses),
                                iters=4))
    plain, _ = train(tiny.config(tmp_path / 'b', iters=4))
    assert_equal(ours.model.state_dict(), plain.model.state_dict())
    assert len(spy.calls) <= 1  # the rehearsal


def test_teacher_does_not_run_while_every_weight_is_zero(tiny, tmp_path):
    ran = []

    def count(runner):
        teacher_model(runner).register_forward_pre_hook(
            lambda m, a: ran.append(runner.iter))

    train(tiny.config(tmp_path, distil(tiny, dict(loss_kd=dict(
        KD, schedule=dict(type='Stop', end=2)))), iters=4),
        At(before_train=count))
    assert ran == [0, 1]


def test_weight_and_schedule_scale_the_term(tiny, tmp_path):
    def term(**kwargs):
        _, logs = train(tiny.config(
            tmp_path, distil(tiny, dict(loss_kd=dict(KD, **kwargs))),
            iters=3, **{'optim_wrapper.optimizer.lr': 0.}))
        return [log['distill.loss_kd'] for log in logs.entries]

    one = term()
    assert term(loss_weight=3.) == pytest.approx([3 * v for v in one])
    ramp = term(schedule=dict(type='LinearRamp', end=2))
    assert ramp == pytest.approx([0, one[1] / 2, one[2]])


def test_schedule_counts_epochs(tiny, tmp_path):
    hook = distil(tiny, dict(loss_kd=dict(KD, schedule=dict(
        type='Step', milestones=[1], gamma=0., by_epoch=True))))
    _, logs = train(tiny.config(tmp_path / 'a', hook, iters=2, by_epoch=True))
    active = [log['distill.loss_kd'] > 0 for log in logs.entries]
    assert active == [True] * 4 + [False] * 4  # 8 images, batch 2
    _, logs = train(tiny.config(tmp_path / 'b', hook, iters=6))
    active = [log['distill.loss_kd'] > 0 for log in logs.entries]
    assert active == [True] * 4 + [False] * 2


def test_task_schedule_scales_the_students_own_losses(tiny, tmp_path):
    changes = {'optim_wrapper.optimizer.lr': 0.}
    _, plain = train(tiny.config(tmp_path / 'a', iters=2, **changes))
    _, ours = train(tiny.config(tmp_path / 'b', distil(
        tiny, task_schedule=dict(type='LinearRamp', start_factor=0.5,
                                 end_factor=1.0, end=1)), iters=2, **changes))
    for name in ('decode.loss_ce', 'aux.loss_ce'):
        first, second = ours.entries
        assert first[name] == pytest.approx(plain.entries[0][name] / 2)
        assert second[name] == pytest.approx(plain.entries[1][name])


def test_adapter_is_built_optimised_and_reached_by_paramwise(tiny, tmp_path):
    def look(runner):
        adapter, = (m for m in runner.model.mmselfkd.loss_nfd.modules()
                    if isinstance(m, torch.nn.Conv2d))
        group = next(g for g in runner.optim_wrapper.optimizer.param_groups
                     if any(p is adapter.weight for p in g['params']))
        return (adapter.weight.detach().clone(), tuple(adapter.weight.shape),
                group['initial_lr'])

    paramwise = {'optim_wrapper.paramwise_cfg': dict(
        custom_keys=dict(mmselfkd=dict(lr_mult=10.)))}
    _, logs = train(tiny.config(
        tmp_path, distil(tiny, dict(loss_nfd=NFD)), iters=3, **paramwise),
        look=look)
    first, last = logs.seen[:2]
    assert first[1] == (16, 8, 1, 1)
    assert not torch.equal(first[0], last[0])
    assert first[2] == pytest.approx(0.1)


def test_relational_loss_compares_unequal_channels_without_adapter(
        tiny, tmp_path):
    _, logs = train(tiny.config(tmp_path, distil(tiny, dict(loss_pa=dict(
        type='PairwiseLoss', source='backbone[3]'))), iters=1),
        look=lambda r: hasattr(r.model, 'mmselfkd'))
    assert logs.entries[0]['distill.loss_pa'] > 0
    assert logs.seen == [False]


def test_levels_are_averaged_and_sizes_are_matched(tiny, tmp_path, spy):
    source = pair('backbone', ['backbone[0]', 'backbone[0]', 'backbone[2]',
                               'backbone[3]'])
    _, logs = train(tiny.config(tmp_path, spied(tiny, source), iters=1))
    calls = spy.calls[-4:]
    assert [tuple(s.shape[1:]) for s, _ in calls] == [
        (4, 8, 8), (8, 4, 4), (16, 4, 4), (32, 4, 4)]
    assert [tuple(t.shape[1:]) for _, t in calls] == [
        (8, 8, 8), (8, 4, 4), (32, 4, 4), (64, 4, 4)]
    mean = sum(s.detach().square().mean().item() for s, _ in calls) / 4
    assert logs.entries[0]['distill.loss_x'] == pytest.approx(mean, rel=1e-5)


def test_several_teachers(tiny, tmp_path):
    hook = distil(
        tiny, dict(loss_a=dict(KD, source=pair('logits', 'small:logits')),
                   loss_b=dict(KD, source=pair('logits', 'large:logits'))),
        teacher=dict(small=tiny.teacher(4), large=tiny.teacher(12)))
    _, logs = train(tiny.config(tmp_path, hook, iters=1))
    log, = logs.entries
    assert log['distill.loss_a'] > 0 and log['distill.loss_b'] > 0
    assert log['distill.loss_a'] != log['distill.loss_b']


def test_in_place_change_behind_a_tap_does_not_reach_the_loss(
        tiny, tmp_path, spy):
    """ResNet: bn1 is followed by an in-place ReLU."""
    train(tiny.config(tmp_path, spied(tiny, 'backbone.layer1.0.bn1'),
                      iters=1))
    student, teacher = spy.calls[-1]
    assert student.min() < 0 and teacher.min() < 0


def test_names_resolve_with_and_without_prefix_in_any_scope(tiny):
    for hook_type in ('DistillHook', 'mmselfkd.DistillHook'):
        for loss_type in ('KDLoss', 'mmselfkd.KDLoss'):
            for scope in ('mmseg', 'mmdet', 'mmengine'):
                with DefaultScope.overwrite_default_scope(scope):
                    hook = HOOKS.build(distil(
                        tiny, dict(loss_kd=dict(KD, type=loss_type)),
                        type=hook_type))
                    assert isinstance(hook, DistillHook)
                    assert isinstance(hook.plan.losses[0].loss, KDLoss)


# -- the host -----------------------------------------------------------------


def test_host_is_untouched_after_training(tiny, tmp_path):
    losses = dict(loss_kd=KD, loss_nfd=NFD)
    runner, _ = train(tiny.config(tmp_path, distil(tiny, losses)))
    assert_clean(runner)


@pytest.mark.parametrize('stage', [
    'before_run', 'before_train', 'before_train_iter',
    'after_load_checkpoint', 'after_train_iter', 'before_val'
])
def test_host_is_untouched_after_an_exception(tiny, tmp_path, stage):
    train(tiny.config(tmp_path, iters=1))

    def bang(*args, **kwargs):
        raise KeyboardInterrupt

    runner = tiny.build(tiny.config(
        tmp_path, distil(tiny, dict(loss_kd=KD, loss_nfd=NFD)), iters=3,
        load_from=str(tmp_path / 'iter_1.pth'),
        **{'train_cfg.val_interval': 1}))
    runner.register_hook(At('LOWEST', **{stage: bang}))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert_clean(runner)


def test_host_is_untouched_after_an_exception_in_a_loss(
        tiny, tmp_path, spy, monkeypatch):
    runner = tiny.build(tiny.config(tmp_path, spied(tiny, 'logits')))
    runner.register_hook(At(before_train_iter=lambda *_, **__: (
        monkeypatch.setattr(spy, 'forward', lambda *a: 1 / 0))))
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert_clean(runner)


def test_training_again_after_an_exception(tiny, tmp_path):
    """The second start finds nothing of the first, not even a hook."""
    runner = tiny.build(tiny.config(
        tmp_path, distil(tiny, dict(loss_nfd=NFD)), iters=1))
    bangs = [KeyboardInterrupt]

    def bang_once(*_, **__):
        if bangs:
            raise bangs.pop()

    runner.register_hook(At(before_train_iter=bang_once))
    hooks = list(runner.hooks)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.hooks == hooks
    runner.train()
    assert_clean(runner)
    assert runner.hooks == hooks
    assert load(tmp_path, 1)['mmselfkd']['modules']


def test_training_again_after_the_end(tiny, tmp_path):
    """A finished run has nothing to do, with distillation or without."""
    runner, logs = train(tiny.config(
        tmp_path, distil(tiny, dict(loss_nfd=NFD, loss_ho=dict(
            type='HolisticLoss', source='logits')))))
    state, hooks = copied(runner.model.state_dict()), list(runner.hooks)
    runner.train()
    assert len(logs.entries) == runner.iter == 2
    assert_equal(copied(runner.model.state_dict()), state)
    assert_clean(runner)
    assert runner.hooks == hooks


def test_a_method_that_somebody_else_has_patched_stays(tiny, tmp_path):
    """Of the Runner and of a later hook, and of a run that went well."""
    called = []
    runner = tiny.build(tiny.config(tmp_path, distil(tiny), iters=1))
    load_or_resume = runner.load_or_resume
    runner.load_or_resume = patched = lambda: (
        called.append('load'), load_or_resume())
    hook = At('LOWEST', before_run=lambda runner: called.append('hook'))
    before_run = hook.before_run
    runner.register_hook(hook)
    runner.train()
    assert called == ['hook', 'load']
    assert runner.load_or_resume is patched and hook.before_run is before_run


def test_validation_and_test_need_no_teacher(tiny, tmp_path):
    train(tiny.config(tmp_path, iters=1))
    missing = dict(tiny.teacher(), checkpoint='gone.pth')
    cfg = tiny.config(
        tmp_path, distil(tiny, teacher=missing),
        load_from=str(tmp_path / 'iter_1.pth'))
    cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, dict()
    cfg.test_evaluator = cfg.val_evaluator
    metrics = tiny.build(cfg).test()
    assert 'mIoU' in metrics
    plain = copy.deepcopy(cfg)
    plain.custom_hooks = []
    assert tiny.build(plain).test() == metrics


def test_validation_in_training_is_that_of_the_plain_student(tiny, tmp_path):
    seen = []
    train(tiny.config(tmp_path, distil(tiny), iters=3,
                      **{'train_cfg.val_interval': 1}),
          At(after_val_epoch=lambda runner, metrics: seen.append(metrics)))
    assert len(seen) == 3
    again = tiny.build(tiny.config(
        tmp_path, load_from=str(tmp_path / 'iter_3.pth'))).val()
    assert again == seen[-1]


def train_unlabelled(tiny, tmp_path, losses):
    cfg = tiny.config(tmp_path, distil(tiny, losses), iters=2)
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='IgnoreAllLabels'))
    return train(cfg)


def test_ignored_batch_gives_exact_zeros_and_a_finite_step(tiny, tmp_path):
    losses = dict(loss_kd=KD, loss_nfd=dict(NFD, loss_weight=0.))
    runner, logs = train_unlabelled(tiny, tmp_path, losses)
    assert [log['distill.loss_kd'] for log in logs.entries] == [0, 0]
    for parameter in runner.model.parameters():
        assert torch.isfinite(parameter).all()


def test_unlabelled_pixels_distil_when_nothing_is_ignored(tiny, tmp_path):
    losses = dict(loss_kd=dict(KD, ignore_index=None))
    _, logs = train_unlabelled(tiny, tmp_path, losses)
    assert logs.entries[0]['distill.loss_kd'] > 0
    assert logs.entries[0]['decode.loss_ce'] == 0


def test_two_runners_do_not_disturb_each_other(tiny, tmp_path):
    alone, _ = train(tiny.config(tmp_path / 'a', distil(tiny)))
    first = tiny.build(tiny.config(tmp_path / 'b', distil(tiny)))
    train(tiny.config(tmp_path / 'c', distil(tiny), width=8))
    again, _ = train(tiny.config(tmp_path / 'd', distil(tiny)))
    assert_equal(alone.model.state_dict(), again.model.state_dict())
    first.train()
    assert_clean(first)


def test_loss_falls_when_only_distillation_trains(tiny, tmp_path):
    """The gradient really arrives: no task loss, the term goes down."""
    hook = distil(tiny, task_schedule=dict(
        type='LinearRamp', start_factor=0., end_factor=0.))
    _, logs = train(tiny.config(
        tmp_path, hook, iters=30, **{'optim_wrapper.optimizer.lr': 0.1}))
    values = [log['distill.loss_kd'] for log in logs.entries]
    assert sum(values[-5:]) < 0.5 * sum(values[:5])
