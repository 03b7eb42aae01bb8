"""The mechanism on a real Runner: losses, teacher, student, checkpoint."""
import copy
import gc
import weakref

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from mmselfkd import DistillHook
from mmselfkd.losses import KDLoss, NFDLoss
from mmselfkd.registry import MODELS

KD = dict(type='KDLoss', source='logits')
NFD = dict(type='NFDLoss', source='features')


def distil(tiny, losses=None, type='mmselfkd.DistillHook', **kwargs):
    kwargs.setdefault('teacher', tiny.teacher())
    return dict(type=type, losses=losses or dict(loss_kd=KD), **kwargs)


def the_hook(runner):
    return next(h for h in runner.hooks if isinstance(h, DistillHook))


class Watch(Hook):
    """Keeps what the train steps returned, and what ``look`` makes of it."""

    priority = 'VERY_LOW'

    def __init__(self, look=None):
        self.look, self.logs, self.seen = look, [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.logs.append({k: float(v.detach()) for k, v in outputs.items()})
        if self.look:
            self.seen.append(self.look(runner))


def train(tiny, tmp_path, *hooks, look=None, **changes):
    """Train; returns the runner and its Watch."""
    runner = tiny.build(tiny.config(tmp_path, *hooks, **changes))
    watch = Watch(look)
    runner.register_hook(watch)
    runner.train()
    return runner, watch


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class Spy(nn.Module):
    """A user's own loss; keeps what it is given."""

    channels = 'any'
    calls = []

    def forward(self, student, teacher, label=None):
        Spy.calls.append((student, teacher, label))
        return student.float().square().mean()


@pytest.fixture
def spy():
    Spy.calls = []
    MMENGINE_MODELS.register_module(module=Spy, force=True)
    yield Spy
    MMENGINE_MODELS.module_dict.pop('Spy')


def test_terms_are_logged_and_summed_into_the_loss(tiny, tmp_path):
    losses = dict(loss_kd=dict(KD, loss_weight=2.), loss_nfd=NFD)
    _, watch = train(tiny, tmp_path, distil(tiny, losses))
    for log in watch.logs:
        parts = [v for k, v in log.items() if 'loss' in k and k != 'loss']
        assert log['distill.loss_kd'] > 0 and log['distill.loss_nfd'] > 0
        assert log['loss'] == pytest.approx(sum(parts), rel=1e-5)
        assert 0 <= log.get('distill/agreement', 0) <= 1
    assert 'distill/agreement' in watch.logs[0]


def test_a_loss_sees_the_student_the_teacher_and_the_labels(
        tiny, tmp_path, spy):
    """Against a plain forward of the same models on the same batch."""
    teacher = None
    batches = []

    class Keep(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            batches.append(copy.deepcopy(data_batch))
            nonlocal teacher
            teacher = the_hook(runner).teachers['teacher'].model

    cfg = tiny.config(
        tmp_path, distil(tiny, dict(loss_x=dict(type='Spy', source='logits'))),
        iters=1)
    runner = tiny.build(cfg)
    runner.register_hook(Keep())
    start = copy.deepcopy(runner.model.state_dict())
    runner._init_model_weights = lambda: None  # keep this very start
    runner.train()
    student, taught, label = Spy.calls[-1]
    plain = MODELS.build(dict(cfg.model, _scope_='mmseg'))
    plain.load_state_dict(start)
    plain.train()
    plain.decode_head.dropout = None
    data = plain.data_preprocessor(batches[0], True)
    with torch.no_grad():
        full = teacher(data['inputs'], mode='tensor')
    assert torch.equal(taught, full)
    assert student.shape == taught.shape and student.requires_grad
    # dropout is drawn in training, so only the shape can be compared above;
    # what enters the classifier has not passed it
    expected = [s.gt_sem_seg.data[0] for s in data['data_samples']]
    assert label is None  # Spy does not ask for labels
    assert len(expected) == 2


def test_labels_reach_the_loss_that_needs_them(tiny, tmp_path, spy):
    Spy.needs_label = True
    try:
        train(tiny, tmp_path,
              distil(tiny, dict(loss_x=dict(type='Spy', source='logits'))),
              iters=1)
    finally:
        del Spy.needs_label
    label = Spy.calls[-1][2]
    assert label.shape == (2, 32, 32) and not label.is_floating_point()


def test_features_do_not_pass_the_dropout(tiny, tmp_path, spy):
    changes = {'model.decode_head.dropout_ratio': 0.9}
    train(tiny, tmp_path,
          distil(tiny, dict(loss_x=dict(type='Spy', source='features'))),
          iters=1, **changes)
    student = Spy.calls[-1][0]
    # Dropout2d zeroes whole channels of an image; ReLU features are not
    # all zero in nine channels of ten
    alive = (student.flatten(2).abs().sum(-1) > 0).float().mean()
    assert alive > 0.5


def test_teacher_is_frozen_alone_and_without_labels(tiny, tmp_path):
    def look(runner):
        hook = the_hook(runner)
        teacher = hook.teachers['teacher'].model
        return (copy.deepcopy(teacher.state_dict()),
                [m.training for m in teacher.modules()],
                [p.requires_grad for p in teacher.parameters()],
                hasattr(teacher, 'auxiliary_head'),
                {id(p) for p in teacher.parameters()}
                & {id(p) for g in runner.optim_wrapper.param_groups
                   for p in g['params']},
                [m for m in runner.model.modules() if m is teacher])

    _, watch = train(tiny, tmp_path, distil(tiny), look=look, iters=3)
    first, last = watch.seen[0], watch.seen[-1]
    assert_same(first[0], last[0])  # BN statistics included
    assert not any(last[1]) and not any(last[2])
    assert not last[3] and not last[4] and not last[5]


def test_teacher_runs_no_deeper_than_its_deepest_tap(tiny, tmp_path):
    ran = []

    class Count(Hook):

        def before_train(self, runner):
            teacher = the_hook(runner).teachers['teacher'].model
            for name in ('backbone.layer1', 'backbone.layer2',
                         'backbone.layer3', 'decode_head.conv_seg'):
                teacher.get_submodule(name).register_forward_pre_hook(
                    lambda m, a, name=name: ran.append(name))

    def run(source):
        ran.clear()
        cfg = tiny.config(
            tmp_path, distil(tiny, dict(loss_x=dict(
                type='PairwiseLoss', source=source))), iters=1)
        runner = tiny.build(cfg)
        runner.register_hook(Count(), priority='LOWEST')
        runner.train()
        return list(ran)

    assert run('backbone.layer2') == ['backbone.layer1', 'backbone.layer2']
    assert run('logits')[-1] == 'decode_head.conv_seg'
    assert run('backbone[0]')[-1] == 'backbone.layer3'  # all four, no head


class InTeacher(Hook):
    """Calls ``look[name](out)`` when a module of the teacher has run."""

    priority = 'LOWEST'

    def __init__(self, **look):
        self.look = look

    def before_train(self, runner):
        teacher = the_hook(runner).teachers['teacher'].model
        for name, look in self.look.items():
            teacher.backbone.get_submodule(name).register_forward_hook(
                lambda module, args, out, look=look: look(out))


def test_teacher_runs_once_for_all_losses(tiny, tmp_path):
    ran = []
    losses = dict(
        loss_kd=KD, loss_ho=dict(type='HolisticLoss', source='logits'),
        loss_pa=dict(type='PairwiseLoss', source='features'),
        loss_at=dict(type='ATLoss', source='backbone'))
    runner = tiny.build(tiny.config(tmp_path, distil(tiny, losses), iters=3))
    runner.register_hook(InTeacher(layer4=ran.append))
    runner.train()
    assert len(ran) == 3


def test_nothing_is_kept_of_a_step(tiny, tmp_path):
    """What no tap needs goes at once, the rest with the step."""
    passed, alive = [], []

    class Look(Spy):

        def forward(self, student, teacher, label=None):
            alive.append([ref() is not None for ref in passed])
            return super().forward(student, teacher, label)

    def held(runner):
        Spy.calls.clear()
        return sum(x.numel() for x in gc.get_objects()
                   if isinstance(x, torch.Tensor))

    MMENGINE_MODELS.register_module(module=Look)
    gc.collect()
    gc.disable()
    try:
        losses = dict(loss_kd=KD, loss_x=dict(type='Look', source='logits'))
        runner = tiny.build(
            tiny.config(tmp_path, distil(tiny, losses), iters=5))
        watch = Watch(held)
        runner.register_hook(watch)
        runner.register_hook(InTeacher(**dict.fromkeys(
            ('layer1', 'layer4'),
            lambda out: passed.append(weakref.ref(out)))))
        runner.train()
    finally:
        gc.enable()
        MMENGINE_MODELS.module_dict.pop('Look')
    assert [len(each) for each in alive[-5:]] == [2, 4, 6, 8, 10]
    assert not any(map(any, alive[-5:]))
    assert len(set(watch.seen[1:])) == 1


@pytest.mark.parametrize('change', [
    dict(mean=[100., 110., 120.]), dict(std=[50., 60., 70.]),
    dict(bgr_to_rgb=False),
    dict(mean=[10., 20., 30.], std=[3., 4., 5.], bgr_to_rgb=False),
    dict(mean=None, std=None),
])
def test_teacher_gets_its_own_normalisation(tiny, tmp_path, change):
    seen, batches = [], []

    class Keep(Hook):

        def before_train(self, runner):
            self.teacher = the_hook(runner).teachers['teacher'].model
            self.teacher.backbone.register_forward_pre_hook(
                lambda m, args: seen.append(args[0]))

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            batches.append(copy.deepcopy(data_batch))

    cfg = tiny.config(
        tmp_path, distil(tiny, teacher=tiny.teacher(**change)), iters=1)
    runner = tiny.build(cfg)
    keep = Keep()
    runner.register_hook(keep, priority='LOWEST')
    runner.train()
    expected = keep.teacher.data_preprocessor(batches[0], True)['inputs']
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_checkpoint_is_a_stock_student(tiny, tmp_path):
    """Same keys and size as a plain run's; loads; predicts the same."""
    losses = dict(loss_kd=KD, loss_nfd=NFD)
    runner, _ = train(tiny, tmp_path / 'a', distil(tiny, losses), iters=2)
    train(tiny, tmp_path / 'b', iters=2)
    ours, plain = (
        torch.load(tmp_path / x / 'iter_2.pth', weights_only=False)
        for x in 'ab')
    assert list(ours['state_dict']) == list(plain['state_dict'])
    assert set(ours['state_dict']._metadata) == set(
        plain['state_dict']._metadata)
    assert set(ours) - set(plain) == {'mmselfkd'}
    assert [g['params'] for g in ours['optimizer']['param_groups']] == [
        g['params'] for g in plain['optimizer']['param_groups']]
    assert ours['optimizer']['state'].keys() == plain['optimizer'][
        'state'].keys()
    assert list(ours['mmselfkd']['modules']) == [
        'loss_nfd.0.weight', 'loss_nfd.0.bias']
    model = MODELS.build(dict(tiny.config(tmp_path).model, _scope_='mmseg'))
    model.load_state_dict(ours['state_dict'], strict=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), runner.model.eval()(x))
    small = (tmp_path / 'a/iter_2.pth').stat().st_size
    assert small < 1.1 * (tmp_path / 'b/iter_2.pth').stat().st_size


def test_a_plain_run_resumes_from_our_checkpoint(tiny, tmp_path):
    train(tiny, tmp_path, distil(tiny, dict(loss_nfd=NFD)), iters=1)
    runner, _ = train(tiny, tmp_path, iters=2, resume=True)
    assert runner.iter == 2


@pytest.mark.parametrize('losses', [
    dict(loss_kd=dict(KD, loss_weight=0.)),
    dict(loss_nfd=dict(NFD, loss_weight=0.),
         loss_pa=dict(type='PairwiseLoss', source='features', loss_weight=0)),
    dict(loss_nfd=dict(NFD, schedule=dict(
        type='LinearRamp', begin=3, end=4))),
])
def test_weight_zero_is_bit_for_bit_the_plain_student(tiny, tmp_path, losses):
    calls = []
    original = NFDLoss.forward
    NFDLoss.forward = lambda *a: calls.append(1) or original(*a)
    try:
        ours, _ = train(tiny, tmp_path / 'a', distil(tiny, losses), iters=4)
    finally:
        NFDLoss.forward = original
    plain, _ = train(tiny, tmp_path / 'b', iters=4)
    assert_same(ours.model.state_dict(), plain.model.state_dict())
    assert len(calls) <= 1  # the rehearsal


def test_teacher_does_not_run_while_every_weight_is_zero(tiny, tmp_path):
    ran = []

    class Count(Hook):

        def before_train(self, runner):
            teacher = the_hook(runner).teachers['teacher'].model
            teacher.register_forward_pre_hook(
                lambda m, a: ran.append(runner.iter))

    runner = tiny.build(tiny.config(
        tmp_path, distil(tiny, dict(loss_kd=dict(KD, schedule=dict(
            type='Stop', end=2)))), iters=4))
    runner.register_hook(Count())
    runner.train()
    assert ran == [0, 1]


def test_weight_and_schedule_scale_the_term(tiny, tmp_path):
    def term(**kwargs):
        _, watch = train(tiny, tmp_path, distil(tiny, dict(
            loss_kd=dict(KD, **kwargs))), iters=3,
            **{'optim_wrapper.optimizer.lr': 0.})
        return [log['distill.loss_kd'] for log in watch.logs]

    one = term()
    assert term(loss_weight=3.) == pytest.approx([3 * v for v in one])
    ramp = term(schedule=dict(type='LinearRamp', end=2))
    assert ramp == pytest.approx([0, one[1] / 2, one[2]])


def test_schedule_counts_epochs(tiny, tmp_path):
    hook = distil(tiny, dict(loss_kd=dict(KD, schedule=dict(
        type='Step', milestones=[1], gamma=0., by_epoch=True))))
    _, watch = train(tiny, tmp_path / 'a', hook, iters=2, by_epoch=True)
    active = [log['distill.loss_kd'] > 0 for log in watch.logs]
    assert active == [True] * 4 + [False] * 4  # 8 images, batch 2
    _, watch = train(tiny, tmp_path / 'b', hook, iters=6)
    active = [log['distill.loss_kd'] > 0 for log in watch.logs]
    assert active == [True] * 4 + [False] * 2


def test_task_schedule_scales_the_students_own_losses(tiny, tmp_path):
    changes = {'optim_wrapper.optimizer.lr': 0.}
    _, plain = train(tiny, tmp_path / 'a', iters=2, **changes)
    _, ours = train(tiny, tmp_path / 'b', distil(
        tiny, task_schedule=dict(type='LinearRamp', start_factor=0.5,
                                 end_factor=1.0, end=1)), iters=2, **changes)
    for name in ('decode.loss_ce', 'aux.loss_ce'):
        assert ours.logs[0][name] == pytest.approx(plain.logs[0][name] / 2)
        assert ours.logs[1][name] == pytest.approx(plain.logs[1][name])


def test_adapter_is_built_optimised_and_reached_by_paramwise(tiny, tmp_path):
    def look(runner):
        adapter = runner.model.mmselfkd.loss_nfd[0]
        group = next(g for g in runner.optim_wrapper.optimizer.param_groups
                     if any(p is adapter.weight for p in g['params']))
        return (adapter.weight.detach().clone(), tuple(adapter.weight.shape),
                group['initial_lr'])

    paramwise = {'optim_wrapper.paramwise_cfg': dict(
        custom_keys=dict(mmselfkd=dict(lr_mult=10.)))}
    _, watch = train(tiny, tmp_path, distil(tiny, dict(loss_nfd=NFD)),
                     look=look, iters=3, **paramwise)
    first, last = watch.seen[:2]
    assert first[1] == (16, 8, 1, 1)
    assert not torch.equal(first[0], last[0])
    assert first[2] == pytest.approx(0.1)


def test_relational_loss_compares_unequal_channels_without_adapter(
        tiny, tmp_path):
    runner, watch = train(tiny, tmp_path, distil(tiny, dict(loss_pa=dict(
        type='PairwiseLoss', source='backbone[3]'))),
        look=lambda r: hasattr(r.model, 'mmselfkd'), iters=1)
    assert watch.logs[0]['distill.loss_pa'] > 0
    assert watch.seen == [False]


def test_levels_are_summed_and_sizes_are_matched(tiny, tmp_path, spy):
    source = dict(student='backbone', teacher=[
        'backbone[0]', 'backbone[0]', 'backbone[2]', 'backbone[3]'])
    train(tiny, tmp_path, distil(tiny, dict(loss_x=dict(
        type='Spy', source=source))), iters=1)
    calls = Spy.calls[-4:]
    assert [tuple(s.shape[1:]) for s, _, _ in calls] == [
        (4, 8, 8), (8, 4, 4), (16, 4, 4), (32, 4, 4)]
    assert [tuple(t.shape[1:]) for _, t, _ in calls] == [
        (8, 8, 8), (8, 4, 4), (32, 4, 4), (64, 4, 4)]


def test_several_teachers(tiny, tmp_path):
    hook = distil(
        tiny, dict(
            loss_a=dict(KD, source=dict(student='logits',
                                        teacher='small:logits')),
            loss_b=dict(KD, source=dict(student='logits',
                                        teacher='large:logits'))),
        teacher=dict(small=tiny.teacher(4), large=tiny.teacher(12)))
    _, watch = train(tiny, tmp_path, hook, iters=1)
    log = watch.logs[0]
    assert log['distill.loss_a'] > 0 and log['distill.loss_b'] > 0
    assert log['distill.loss_a'] != log['distill.loss_b']


def test_in_place_change_behind_a_tap_does_not_reach_the_loss(
        tiny, tmp_path, spy):
    """ResNet: bn1 is followed by an in-place ReLU."""
    train(tiny, tmp_path, distil(tiny, dict(loss_x=dict(
        type='Spy', source='backbone.layer1.0.bn1'))), iters=1)
    student, teacher, _ = Spy.calls[-1]
    assert student.min() < 0 and teacher.min() < 0


def test_names_resolve_with_and_without_prefix_in_any_scope(tiny, tmp_path):
    for hook_type in ('DistillHook', 'mmselfkd.DistillHook'):
        for loss_type in ('KDLoss', 'mmselfkd.KDLoss'):
            for scope in ('mmseg', 'mmdet', 'mmengine'):
                with DefaultScope.overwrite_default_scope(scope):
                    from mmengine.registry import HOOKS
                    hook = HOOKS.build(distil(
                        tiny, dict(loss_kd=dict(KD, type=loss_type)),
                        type=hook_type))
                    assert isinstance(hook.terms[0].loss, KDLoss)


def test_host_is_untouched_after_training(tiny, tmp_path):
    losses = dict(loss_kd=KD, loss_nfd=NFD)
    runner, _ = train(tiny, tmp_path, distil(tiny, losses))
    assert_clean(runner)


def assert_clean(runner):
    for module in runner.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not hasattr(runner.model, 'mmselfkd')
    assert 'load_or_resume' not in vars(runner)
    assert '_init_model_weights' not in vars(runner)
    assert 'run' not in vars(runner.train_loop)


@pytest.mark.parametrize('stage', [
    'before_run', 'before_train', 'before_train_iter',
    'after_load_checkpoint', 'after_train_iter', 'before_val'
])
def test_host_is_untouched_after_an_exception(tiny, tmp_path, stage):
    train(tiny, tmp_path, iters=1)

    class Bang(Hook):
        pass

    def bang(self, *args, **kwargs):
        raise KeyboardInterrupt

    setattr(Bang, stage, bang)
    cfg = tiny.config(
        tmp_path, distil(tiny, dict(loss_kd=KD, loss_nfd=NFD)), iters=3,
        load_from=str(tmp_path / 'iter_1.pth'),
        **{'train_cfg.val_interval': 1})
    runner = tiny.build(cfg)
    runner.register_hook(Bang(), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert_clean(runner)


def test_host_is_untouched_after_an_exception_in_a_loss(tiny, tmp_path, spy):
    runner = tiny.build(tiny.config(tmp_path, distil(tiny, dict(
        loss_x=dict(type='Spy', source='logits')))))

    class Fail(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            Spy.forward = lambda *a: 1 / 0

    original = Spy.forward
    runner.register_hook(Fail())
    try:
        with pytest.raises(ZeroDivisionError):
            runner.train()
    finally:
        Spy.forward = original
    assert_clean(runner)


def test_training_again_after_an_exception(tiny, tmp_path):
    """The second start finds nothing of the first, not even a hook."""
    class BangOnce(Hook):
        bang = True

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if self.bang:
                BangOnce.bang = False
                raise KeyboardInterrupt

    runner = tiny.build(tiny.config(
        tmp_path, distil(tiny, dict(loss_nfd=NFD)), iters=1))
    runner.register_hook(BangOnce())
    hooks = list(runner.hooks)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.hooks == hooks
    runner.train()
    assert_clean(runner)
    assert runner.hooks == hooks
    saved = torch.load(tmp_path / 'iter_1.pth', weights_only=False)
    assert saved['mmselfkd']['modules']


def test_validation_and_test_need_no_teacher(tiny, tmp_path):
    runner, _ = train(tiny, tmp_path, iters=1)
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

    class Metrics(Hook):

        def after_val_epoch(self, runner, metrics=None):
            seen.append(metrics)

    runner = tiny.build(tiny.config(
        tmp_path, distil(tiny), iters=3, **{'train_cfg.val_interval': 1}))
    runner.register_hook(Metrics())
    runner.train()
    assert len(seen) == 3
    again = tiny.build(tiny.config(
        tmp_path, load_from=str(tmp_path / 'iter_3.pth'))).val()
    assert again == seen[-1]


def train_unlabelled(tiny, tmp_path, losses):
    cfg = tiny.config(tmp_path, distil(tiny, losses), iters=2)
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='IgnoreAllLabels'))
    runner = tiny.build(cfg)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


def test_ignored_batch_gives_exact_zeros_and_a_finite_step(tiny, tmp_path):
    losses = dict(loss_kd=KD, loss_nfd=dict(NFD, loss_weight=0.))
    runner, watch = train_unlabelled(tiny, tmp_path, losses)
    assert [log['distill.loss_kd'] for log in watch.logs] == [0, 0]
    for parameter in runner.model.parameters():
        assert torch.isfinite(parameter).all()


def test_unlabelled_pixels_distil_when_nothing_is_ignored(tiny, tmp_path):
    losses = dict(loss_kd=dict(KD, ignore_index=None))
    _, watch = train_unlabelled(tiny, tmp_path, losses)
    assert watch.logs[0]['distill.loss_kd'] > 0
    assert watch.logs[0]['decode.loss_ce'] == 0


def test_two_runners_do_not_disturb_each_other(tiny, tmp_path):
    alone, watch = train(tiny, tmp_path / 'a', distil(tiny))
    first = tiny.build(tiny.config(tmp_path / 'b', distil(tiny)))
    tiny.build(tiny.config(tmp_path / 'c', distil(tiny), width=8)).train()
    again = tiny.build(tiny.config(tmp_path / 'd', distil(tiny)))
    again.train()
    assert_same(alone.model.state_dict(), again.model.state_dict())
    first.train()
    assert_clean(first)


def test_loss_falls_when_only_distillation_trains(tiny, tmp_path):
    """The gradient really arrives: no task loss, the term goes down."""
    hook = distil(tiny, task_schedule=dict(
        type='LinearRamp', start_factor=0., end_factor=0.))
    _, watch = train(tiny, tmp_path, hook, iters=30,
                     **{'optim_wrapper.optimizer.lr': 0.1})
    values = [log['distill.loss_kd'] for log in watch.logs]
    assert sum(values[-5:]) < 0.5 * sum(values[:5])
