"""Mixed precision: losses in float32, finite, and a bad batch is skipped.

With a GPU these tests use mmengine's wrapper as it is. Without one its check
for a device is passed over, and scaler and autocast are torch's for the CPU.
"""
import copy
import functools
from contextlib import contextmanager

import pytest
import torch
from helpers import (
    NFD,
    NO_DROPOUT,
    At,
    assert_stock,
    copied,
    distillation,
    load,
    teacher_model,
)
from helpers import train as train_config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import amp

from mmselfkd import DistillHook
from mmselfkd.distillation.agreement import linear_cka

SCALE = 256.


@pytest.fixture(autouse=True)
def mixed_precision(monkeypatch):
    """AmpOptimWrapper with float16 and bfloat16 on the CPU too."""
    if torch.cuda.is_available():
        return

    @contextmanager
    def autocast(device_type=None, dtype=None, **kwargs):
        with torch.autocast('cpu', dtype=dtype, **kwargs):
            yield

    monkeypatch.setattr(
        amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler',
        functools.partial(torch.amp.GradScaler, device='cpu'))
    monkeypatch.setattr(amp, 'autocast', autocast)


def both(student, teacher=None):
    return dict(student=student, teacher=teacher or student)


def every(tiny):
    """Every loss and every kind of teacher in one run."""
    refined = dict(
        type='SelfTeacher', head=dict(type='SegformerHead', dropout_ratio=0.))
    mixed = both('mix:interpolated.features', 'mix:mixed.features')
    return dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            big=tiny.teacher(), average=dict(type='EMATeacher'),
            last=dict(type='SnapshotTeacher', interval=1),
            refined=refined, own=dict(type='StudentAsTeacher'),
            mix=dict(type='MixTeacher')),
        losses=dict(
            loss_kd=dict(type='KDLoss', source=both('logits', 'big:logits')),
            loss_ka=dict(
                type='KDLoss', source=both('logits', 'average:logits'),
                adjust=dict(type='ProbabilityShift'),
                dynamic_temperature=dict(type='FLSW')),
            loss_last=dict(
                type='KDLoss', source=both('logits', 'last:logits')),
            loss_nfd=dict(
                type='NFDLoss', source=both('features', 'big:features')),
            loss_pa=dict(
                type='PairwiseLoss', source=both('features', 'big:features')),
            loss_ho=dict(
                type='HolisticLoss', source=both('logits', 'big:logits')),
            loss_icsd=dict(
                type='ICSDLoss', source=both('logits', 'big:logits'),
                loss_weight=0.01),
            loss_at=dict(
                type='ATLoss', source=both('backbone', 'refined:neck')),
            loss_inter=dict(
                type='TFDInterLoss', source=both('backbone', 'own:backbone')),
            loss_intra=dict(
                type='TFDIntraLoss', source=both('backbone', 'own:backbone')),
            loss_fea=dict(type='MixSKDFeatureLoss', source=mixed),
            loss_dis=dict(type='MixSKDAdversarialLoss', source=mixed),
            loss_b=dict(
                type='MixSKDLogitLoss', source=both(
                    'mix:interpolated.branches', 'mix:mixed.branches'))))


def features(tiny):
    """A frozen teacher and an adapter; no class scores are compared."""
    return dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(),
        losses=dict(loss_nfd=NFD), diagnose=dict(interval=1))


class Watch:
    """Values and types of the log, and the state after each iteration."""

    def __init__(self):
        self.logs, self.types, self.norms = [], {}, []
        self.scales, self.students, self.extras = [], [], []
        self.hook = At(before_train=self._keep,
                       after_train_iter=self._after_train_iter)

    def _after_train_iter(self, runner, outputs, **_):
        self.logs.append({k: float(v.detach()) for k, v in outputs.items()})
        self.types.update({k: v.dtype for k, v in outputs.items()})
        history = runner.message_hub.log_scalars.get('train/grad_norm')
        self.norms.append(history.current() if history else None)
        self._keep(runner)

    def _keep(self, runner):
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.scales.append(scaler and scaler.get_scale())
        self.students.append(copied(runner.model.state_dict()))
        parts = {}
        if any(isinstance(hook, DistillHook) for hook in runner.hooks):
            run = distillation(runner)
            parts = dict(run.discriminators, **run.teachers)
        self.extras.append({
            f'{name}.{key}': value for name, part in parts.items()
            for key, value in flat(part.state_dict())})
        momenta = [
            s['momentum_buffer'] for s in
            runner.optim_wrapper.optimizer.state.values()
            if s.get('momentum_buffer') is not None]
        self.extras[-1]['momenta'] = torch.stack(
            [m.norm() for m in momenta] or [torch.zeros(())])


def flat(state, path=''):
    """The tensors of nested dicts, by their path."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from flat(value, f'{path}{key}.')
        elif isinstance(value, torch.Tensor):
            yield f'{path}{key}', value.detach().clone()


def broken(state):
    return {name for name, value in state.items()
            if not torch.isfinite(value).all()}


def train(tiny, tmp_path, hook=None, dtype=None, others=(), **changes):
    """Train; ``dtype`` None is full precision, without a scaler."""
    save = changes.pop('save', False)
    wrapper = changes.pop('wrapper', {})
    changes = dict({**NO_DROPOUT,
                    'default_hooks.checkpoint.save_last': save,
                    'default_hooks.checkpoint.interval': 1 if save else -1,
                    'param_scheduler': []}, **changes)
    cfg = tiny.config(tmp_path, *([copy.deepcopy(hook)] if hook else []),
                      iters=changes.pop('iters', 3), **changes)
    if dtype is not None:
        wrapper = dict({'type': 'AmpOptimWrapper', 'dtype': dtype,
                        'loss_scale': dict(init_scale=SCALE)}, **wrapper)
    cfg.optim_wrapper.update(wrapper)
    watch = Watch()
    return train_config(cfg, *others, watch.hook)[0], watch


def test_losses_are_float32_and_near_full_precision(tiny, tmp_path):
    _, full = train(tiny, tmp_path / 'full', every(tiny), iters=2)
    for dtype, near in (('bfloat16', 0.05), ('float16', 0.01)):
        runner, half = train(tiny, tmp_path / dtype, every(tiny), dtype,
                             iters=2)
        assert half.scales == [SCALE] * 3  # no gradient was lost
        assert half.types.keys() == full.types.keys()
        ours = [name for name in half.types if name.startswith('distill')]
        # terms, FRSKD, MixSKD, agreement, the teacher's accuracy
        assert len(ours) == 13 + 1 + 3 + 2
        for name in ours:
            assert half.types[name] == torch.float32, name
        for name in full.logs[0]:  # the first one: of the same weights
            if 'loss' in name:
                assert half.logs[0][name] == pytest.approx(
                    full.logs[0][name], rel=near, abs=near / 50), name
                assert half.logs[1][name] == pytest.approx(
                    full.logs[1][name], rel=0.2, abs=0.02), name
        for name, value in runner.model.state_dict().items():
            if value.is_floating_point():
                assert value.dtype == torch.float32, name


def test_crosskd_runs_the_rest_of_the_head_in_full_precision(
        detectors, tmp_path):
    name, found = 'distill.loss_crosskd', []
    for wrapper in ({}, dict(type='AmpOptimWrapper', dtype='bfloat16')):
        cfg = detectors.config(tmp_path / str(len(found)), 'gfl', dict(
            type='mmselfkd.CrossKDHook', teacher=detectors.teacher('gfl')))
        cfg.optim_wrapper.update(wrapper)
        watch = Watch()
        train_config(cfg, watch.hook)
        assert watch.types[name] == torch.float32
        found.append(watch.logs[0][name])
    assert found[1] == pytest.approx(found[0], rel=0.1)


def shares(runner):
    scalars = runner.message_hub.log_scalars
    return [scalars[f'train/distill.{name}.loss_nfd'].current()
            for name in ('share', 'cosine')]


def test_agreement_and_shares_are_those_of_full_precision(tiny, tmp_path):
    """Products over all positions leave the range of float16."""
    name = 'distill.cka'
    runner, full = train(tiny, tmp_path / 'full', features(tiny), iters=1)
    expected_shares = shares(runner)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        20 * torch.rand(2, c, 32, 32, generator=generator) for c in (4, 8))
    expected = linear_cka(student, teacher)
    for dtype in ('bfloat16', 'float16'):
        runner, half = train(tiny, tmp_path / dtype, features(tiny), dtype,
                             iters=1)
        assert shares(runner) == pytest.approx(expected_shares, abs=0.02)
        assert half.types[name] == torch.float32
        assert half.logs[0][name] == pytest.approx(
            full.logs[0][name], abs=0.02)
        with torch.autocast('cpu', dtype=getattr(torch, dtype)):
            assert torch.equal(linear_cka(student, teacher), expected)


def test_a_weight_that_follows_from_them_too(tiny, tmp_path):
    """The gradients have the scale of the step when they are measured."""
    hook = features(tiny)
    hook['losses'] = dict(loss_nfd=dict(NFD, loss_weight='auto', share=0.2))
    weights = {}
    for dtype in (None, 'bfloat16', 'float16'):
        runner, _ = train(tiny, tmp_path / str(dtype), hook, dtype, iters=1)
        assert shares(runner)[0] == pytest.approx(0.2, rel=1e-3)
        weights[dtype] = runner.message_hub.log_scalars[
            'train/distill.weight.loss_nfd'].current()
    for weight in weights.values():
        assert weight == pytest.approx(weights[None], rel=0.05)


class Extreme:
    """Constant images, huge class scores, features that are all 0."""

    def __init__(self):
        self.hook = At('NORMAL', before_train=self._keep,
                       before_train_iter=self._change)

    def _keep(self, runner):
        self.heads = [runner.model.decode_head,
                      teacher_model(runner, 'big').decode_head]
        self.states = [copied(head.state_dict()) for head in self.heads]

    def _change(self, runner, data_batch, **_):
        for head, state in zip(self.heads, self.states):
            head.load_state_dict(state)
        if runner.iter == 1:
            data_batch['inputs'] = [
                torch.zeros_like(image) for image in data_batch['inputs']]
        for sign, head in zip((1, -1), self.heads):
            if runner.iter in (2, 3):
                head.conv_seg.weight.data.mul_(sign * 2e4)
            if runner.iter == 3:  # the teacher is as huge, the other way
                head.conv_seg.bias.data[0] = sign * 3e4
            if runner.iter == 4:
                head.conv_cat.bn.weight.data.zero_()
                head.conv_cat.bn.bias.data.zero_()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_extreme_but_legal_batches_are_finite(tiny, tmp_path, dtype):
    """Every term, and the gradient of all of them together.

    The norm of the gradient is written down by a clipping that clips
    nothing; a student that does not move shows each case on its own.
    """
    wrapper = dict(clip_grad=dict(max_norm=1e30))
    if dtype == 'float16':  # huge scores: where a dynamic one would end
        wrapper['loss_scale'] = 2.**-6
    _, watch = train(
        tiny, tmp_path, every(tiny), dtype, [Extreme().hook], wrapper=wrapper,
        iters=5, **{'optim_wrapper.optimizer.lr': 0.})
    for log, norm in zip(watch.logs, watch.norms):
        assert not [name for name, value in log.items()
                    if not torch.isfinite(torch.tensor(value))]
        assert 0 < norm < float('inf')
    assert watch.logs[2]['distill.loss_kd'] > 10
    assert watch.logs[3]['distill.loss_kd'] > 1e3


def poison(runner, data_batch, **_):
    """Not a number in the images of the second iteration."""
    if runner.iter == 1:
        data_batch['inputs'] = [
            image.float().index_fill(
                2, torch.tensor([5]).to(image.device), float('nan'))
            for image in data_batch['inputs']]


POISON = At('NORMAL', before_train_iter=poison)


def assert_equal(first, second, names):
    for name in names:
        torch.testing.assert_close(
            first[name], second[name], rtol=0, atol=0, equal_nan=True,
            msg=name)


def test_a_non_finite_batch_is_skipped_and_named(tiny, tmp_path, capsys):
    """As in a plain run: no weight moves, the scale is halved, it goes on."""
    hook = every(tiny)
    for teacher, loss in (('average', 'loss_ka'), ('last', 'loss_last')):
        hook['teacher'].pop(teacher)  # those that follow: below
        hook['losses'].pop(loss)
    _, ours = train(tiny, tmp_path / 'a', hook, 'float16', [POISON],
                    iters=4)
    text = capsys.readouterr().out
    _, plain = train(tiny, tmp_path / 'b', None, 'float16', [POISON],
                     iters=4)
    assert ours.scales == plain.scales == [
        SCALE, SCALE, SCALE / 2, SCALE / 2, SCALE / 2]
    before, after, later = ours.students[1:4]
    weights = [name for name, value in before.items()
               if not name.endswith(('_mean', '_var', '_tracked'))]
    assert any(name.startswith('mmselfkd.refined') for name in weights)
    assert any(name.startswith('mmselfkd.loss_nfd') for name in weights)
    assert_equal(before, after, weights)
    moved = [n for n in weights if not torch.equal(after[n], later[n])]
    assert len(moved) > 0.9 * len(weights)
    # the statistics of BN are lost, as they are without distillation
    stock = {n for n in broken(after) if not n.startswith('mmselfkd.')}
    assert stock == broken(plain.students[2]) and not stock & set(weights)

    first, bad = ours.extras[1:3]
    still = [n for n in first
             if not n.endswith(('.norm.0.u', '.norm.0.v'))]  # spectral norm
    assert any(n.startswith('loss_ho.losses') for n in still)
    assert any(n.startswith('loss_dis.optimizer') for n in still)
    assert_equal(first, bad, still)
    for state in ours.extras:
        assert not broken(state)

    names = [n for n in ours.logs[1] if n.startswith('distill.')]
    assert len(names) == 11 + 1 + 3  # terms, FRSKD, MixSKD
    for name in names:
        assert f'{name} is nan in iteration 2' in text
    assert 'in iteration 1' not in text and 'in iteration 3' not in text
    for log in ours.logs[2:]:
        assert all(value == value for value in log.values())


@pytest.mark.parametrize('teacher', [
    dict(type='EMATeacher'), dict(type='SnapshotTeacher', interval=1)])
def test_a_teacher_that_follows_is_not_poisoned(tiny, tmp_path, teacher):
    """The student trains on its batch statistics, so the run goes on.

    The running ones, with which the teacher sees, are lost in the student.
    """
    hook = dict(
        type='mmselfkd.DistillHook', teacher=teacher,
        losses=dict(loss_kd=dict(type='KDLoss', source='logits')))
    _, watch = train(tiny, tmp_path, hook, 'bfloat16', [POISON], iters=4)
    assert broken(watch.students[-1])
    for log in watch.logs[2:]:
        assert 0 < log['distill.loss_kd'] < 1
    assert watch.scales[-1] == SCALE / 2
    for state in watch.extras:
        assert not broken(state)


def test_without_a_scaler_it_is_as_in_a_plain_run(tiny, tmp_path):
    """Nothing skips the step there either; the discriminators stay whole."""
    _, ours = train(tiny, tmp_path / 'a', every(tiny), None, [POISON],
                    iters=2)
    _, plain = train(tiny, tmp_path / 'b', None, None, [POISON], iters=2)
    stock = {n for n in broken(ours.students[-1])
             if not n.startswith('mmselfkd.')}
    assert stock == broken(plain.students[-1])
    assert len(stock) > 100
    lost = {n.split('.')[0] for n in broken(ours.extras[-1])}
    assert not {n for n in lost if n.startswith('loss_')}


def test_the_scaler_is_in_a_stock_checkpoint(tiny, tmp_path):
    """Resumed by a run with distillation, and by one without."""
    train(tiny, tmp_path / 'a', features(tiny), 'bfloat16', [POISON],
          iters=2, save=True)
    train(tiny, tmp_path / 'b', None, 'bfloat16', [POISON], iters=2,
          save=True)
    ours, plain = load(tmp_path / 'a', 2), load(tmp_path / 'b', 2)
    assert list(ours['state_dict']) == list(plain['state_dict'])
    assert ours['optimizer'].keys() == plain['optimizer'].keys()
    assert ours['optimizer']['loss_scaler'] == plain['optimizer'][
        'loss_scaler']
    assert ours['optimizer']['loss_scaler']['scale'] == SCALE / 2
    assert set(ours) - set(plain) == {'mmselfkd'}
    assert_stock(ours, tiny.model(4))
    for hook in (features(tiny), None):
        _, watch = train(tiny, tmp_path / 'a', hook, 'bfloat16', iters=3,
                         resume=True)
        assert watch.scales == [SCALE / 2] * 2, hook


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_images_without_labels(tiny, tmp_path, dtype):
    """Their pass runs under the autocast of the student's."""
    cfg = tiny.config(tmp_path)
    loader = copy.deepcopy(cfg.train_dataloader)
    hook = dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(),
                losses=dict(loss_nfd=NFD), unlabelled=dict(dataloader=loader))
    _, full = train(tiny, tmp_path / 'full', hook)
    _, half = train(tiny, tmp_path / dtype, hook, dtype)
    name = 'distill.loss_nfd_unlabelled'
    assert half.types[name] == torch.float32
    assert half.logs[0][name] == pytest.approx(full.logs[0][name], rel=0.05)
