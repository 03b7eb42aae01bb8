"""What a Runner can do besides training: it does so with distillation too."""
import copy
import gc
import os
from pathlib import Path

import pytest
import torch
from helpers import (
    NO_DROPOUT,
    At,
    assert_equal,
    assert_stock,
    assert_untouched,
    copied,
    keep_order,
    load,
    pair,
    teacher_model,
)
from helpers import train as train_config
from mmengine.hooks import EMAHook
from mmengine.model import efficient_conv_bn_eval
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapperDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, RUNNERS
from mmseg.models import EncoderDecoder
from torch import nn

from mmselfkd import ConfigError, randomness

REFINED = dict(
    type='SelfTeacher', head=dict(type='SegformerHead', dropout_ratio=0.))
MIX = dict(type='mmselfkd.MixSKDHook')


def both(tiny, big=None, **losses):
    """A frozen teacher, for which the student needs an adapter; FRSKD."""
    return dict(
        type='mmselfkd.DistillHook',
        teacher=dict(big=big or tiny.teacher(), refined=REFINED),
        losses=dict(
            loss_kd=dict(
                type='KDLoss', source=pair('logits', 'big:logits'),
                ignore_index=None),
            loss_nfd=dict(
                type='NFDLoss', source=pair('features', 'big:features')),
            loss_at=dict(
                type='ATLoss', source=pair('backbone', 'refined:neck'),
                loss_weight=50.), **losses))


def config(tiny, work_dir, hook, save=0, edit=None, **changes):
    """The config of a run without dropout; ``save``: how often."""
    cfg = tiny.config(work_dir, *([copy.deepcopy(hook)] if hook else []),
                      **dict(NO_DROPOUT, **changes))
    cfg.default_hooks.checkpoint.update(
        interval=save or -1, save_last=bool(save))
    if edit:
        edit(cfg)
    return cfg


class Watch:
    """Log and weights of each iteration, ours among them."""

    def __init__(self, logs):
        self.logs, self.weights = logs.entries, logs.seen


def weights(runner):
    return copied(dict(runner.model.named_parameters()))


def train(tiny, work_dir, hook, *others, **changes):
    runner, logs = train_config(
        config(tiny, work_dir, hook, **changes), *others, look=weights)
    return runner, Watch(logs)


def still(cfg):
    """Samples in their order, as they are; a constant learning rate."""
    keep_order(cfg)
    cfg.param_scheduler = []


# -- optimisation -------------------------------------------------------------


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny, tmp_path):
    """Of adapters and self-teacher too, where no norm mixes the images."""
    def edit(cfg):
        still(cfg)
        for part in ('backbone', 'decode_head', 'auxiliary_head'):
            cfg.model[part].norm_cfg = dict(type='GN', num_groups=2)

    _, whole = train(
        tiny, tmp_path / 'a', both(tiny), edit=edit, iters=2,
        **{'train_dataloader.batch_size': 4})
    _, parts = train(
        tiny, tmp_path / 'b', both(tiny), edit=edit, iters=4,
        **{'optim_wrapper.accumulative_counts': 2})
    assert_equal(parts.weights[1], parts.weights[2])  # nothing in between
    ours = [name for name in whole.weights[1] if name.startswith('mmselfkd.')]
    assert any(not torch.equal(whole.weights[0][name], whole.weights[1][name])
               for name in ours)
    for name, value in whole.weights[1].items():
        torch.testing.assert_close(
            parts.weights[3][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_an_average_counts_every_iteration_of_accumulation(tiny, tmp_path):
    """As EMAHook: also those in which the student does not move."""
    seen = []

    def keep(runner, **_):
        seen.append(copied(dict(teacher_model(runner).named_parameters())))

    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(type='EMATeacher', momentum=0.25),
        losses=dict(loss_kd=dict(type='KDLoss', source='logits')))
    look = At('LOWEST', before_train=keep, after_train_iter=keep)
    _, watch = train(tiny, tmp_path, hook, look, iters=4,
                     **{'optim_wrapper.accumulative_counts': 2})
    assert_equal(watch.weights[1], watch.weights[2])
    for before, now, student in zip(seen, seen[1:], watch.weights):
        for name, value in now.items():
            torch.testing.assert_close(
                value, before[name].lerp(student[name], 0.25))
    name = 'decode_head.conv_seg.weight'
    assert not torch.equal(seen[2][name], seen[3][name])


def test_clipping_takes_student_and_ours_as_one_vector(tiny, tmp_path):
    """One norm of both, as for any parameter of the model."""
    norms = []

    def look(runner):
        wrapper = runner.optim_wrapper
        original = wrapper.clip_func
        assert wrapper.grad_name == 'grad_norm'
        everything = {id(p) for p in runner.model.parameters()}

        def clip(params, **kwargs):
            assert {id(p) for p in params} == everything
            assert kwargs == dict(max_norm=0.5)
            before = nn.utils.get_total_norm([p.grad for p in params])
            norm = original(params, **kwargs)
            after = nn.utils.get_total_norm([p.grad for p in params])
            norms.append((before.item(), norm.item(), after.item()))
            return norm

        wrapper.clip_func = clip

    def edit(cfg):
        cfg.optim_wrapper = dict(
            type='OptimWrapper', clip_grad=dict(max_norm=0.5),
            optimizer=dict(type='SGD', lr=1.))
        cfg.param_scheduler = []

    _, watch = train(tiny, tmp_path, both(tiny), At(before_train=look),
                     edit=edit)
    assert len(norms) == 2
    for before, norm, after in norms:
        assert before == pytest.approx(norm) and norm > 0.5
        assert after == pytest.approx(0.5, rel=1e-4)
    moved = {name: value - watch.weights[0][name]
             for name, value in watch.weights[1].items()}
    assert nn.utils.get_total_norm(moved.values()) == pytest.approx(
        0.5, rel=1e-3)
    ours = [v for n, v in moved.items() if n.startswith('mmselfkd.')]
    assert nn.utils.get_total_norm(ours) > 1e-3


def test_paramwise_settings_reach_ours_by_name_and_kind(tiny, tmp_path):
    """Norms and biases of a self-teacher like those of the student."""
    groups = {}

    def look(runner):
        names = {id(p): n for n, p in runner.model.named_parameters()}
        for group in runner.optim_wrapper.optimizer.param_groups:
            for p in group['params']:
                groups[names[id(p)]] = group

    def edit(cfg):
        cfg.optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
            paramwise_cfg=dict(
                norm_decay_mult=0., bias_lr_mult=2.,
                custom_keys={
                    'mmselfkd.refined.decode_head': dict(lr_mult=5.)}))

    train(tiny, tmp_path, both(tiny), At(before_train=look), iters=1,
          edit=edit)
    prefix = 'mmselfkd.refined.'
    kinds = set()
    for name, group in groups.items():
        decay, lr = group['weight_decay'], group['initial_lr']
        if name.startswith(f'{prefix}decode_head'):
            assert lr == pytest.approx(5e-3)
        elif name.startswith(prefix):
            norm = '.bn.' in name
            kinds.add(norm)
            assert decay == (0. if norm else 0.1), name
            bias = name.endswith('.bias') and not norm
            assert lr == pytest.approx(2e-3 if bias else 1e-3), name
    assert kinds == {True, False}


def test_learning_rates_are_those_of_the_plain_run(tiny, tmp_path):
    """Scaled to the batch once, and scheduled, though built anew."""
    def edit(cfg):
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=8)

    seen = []

    def look(runner, **_):
        group, = runner.optim_wrapper.optimizer.param_groups
        seen.append(group['lr'])

    for name, hook in (('a', both(tiny)), ('b', None)):
        train(tiny, tmp_path / name, hook, At('NORMAL', after_train_iter=look),
              edit=edit, iters=3)
    assert seen[:3] == seen[3:]
    assert seen[0] == 0.01 * 2 / 8 and seen[2] < seen[1] < seen[0]


class TwoOptimizers(EncoderDecoder):
    """A model that steps several optimizers itself, as mmengine asks for."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, log = self.parse_losses(self._run_forward(data, mode='loss'))
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return log


class PerPart:
    """SGD for the backbone, AdamW for ``rest``: what it is given."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.parts = optim_wrapper_cfg.pop('parts')
        self.cfgs, self.paramwise = optim_wrapper_cfg, paramwise_cfg

    def __call__(self, model):
        wrappers = {}
        for name, cfg in self.cfgs.items():
            children = {n: m for n, m in model.named_children()
                        if (n == 'backbone') == (name == 'backbone')
                        and n in self.parts}
            wrappers[name] = DefaultOptimWrapperConstructor(
                cfg, self.paramwise)(nn.ModuleDict(children))
        return OptimWrapperDict(**wrappers)


@pytest.fixture
def two_optimizers():
    """Changes of the config; the two classes are registered meanwhile."""
    MMENGINE_MODELS.register_module(module=TwoOptimizers)
    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=PerPart)

    def edit(cfg, parts=('backbone', 'decode_head', 'auxiliary_head',
                         'mmselfkd')):
        still(cfg)
        cfg.train_dataloader.batch_size = 8
        cfg.model.type = 'TwoOptimizers'
        cfg.optim_wrapper = dict(
            constructor='PerPart', parts=parts,
            backbone=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            rest=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            paramwise_cfg=dict(
                custom_keys=dict(mmselfkd=dict(lr_mult=3.))))

    yield edit
    MMENGINE_MODELS.module_dict.pop('TwoOptimizers')
    OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop('PerPart')


def test_several_optimizers(tiny, tmp_path, two_optimizers):
    """A stock checkpoint for each of them; resumed bit for bit."""
    lrs = set()

    def look(runner):
        names = {id(p): n for n, p in runner.model.named_parameters()}
        for kind, wrapper in runner.optim_wrapper.items():
            lrs.update(
                (kind, round(group['lr'], 6))
                for group in wrapper.optimizer.param_groups
                if names[id(group['params'][0])].startswith('mmselfkd.'))

    hook = both(tiny)
    _, whole = train(tiny, tmp_path / 'a', hook, At(before_train=look),
                     iters=2, save=1, edit=two_optimizers)
    assert lrs == {('rest', 3e-3)}
    for name, value in whole.weights[1].items():
        assert not torch.equal(value, whole.weights[0][name]), name
    train(tiny, tmp_path / 'plain', None, iters=1, save=1,
          edit=two_optimizers)
    ours, plain = (load(tmp_path / x, 1) for x in ('a', 'plain'))
    assert ours['optimizer'].keys() == plain['optimizer'].keys()
    for kind, state in plain['optimizer'].items():
        assert ours['optimizer'][kind].keys() == state.keys()
        assert ours['optimizer'][kind]['state'].keys() == state[
            'state'].keys()
        assert [g['params'] for g in ours['optimizer'][kind]['param_groups']
                ] == [g['params'] for g in state['param_groups']]
    (tmp_path / 'a/last_checkpoint').write_text(
        str(tmp_path / 'a/iter_1.pth'))
    _, resumed = train(tiny, tmp_path / 'a', hook, iters=2, resume=True,
                       edit=two_optimizers)
    assert_equal(resumed.weights[-1], whole.weights[-1])


def test_several_optimizers_that_leave_ours_out(
        tiny, tmp_path, two_optimizers):
    runner = tiny.build(config(
        tiny, tmp_path, both(tiny), edit=lambda cfg: two_optimizers(
            cfg, ('backbone', 'decode_head', 'auxiliary_head'))))
    with pytest.raises(ConfigError, match=r"'PerPart'.*loss_nfd\..*weight"):
        runner.train()
    assert_untouched(runner.model)


def test_ema_hook_averages_student_and_ours_alone(tiny, tmp_path):
    """Adapters and self-teacher as the student's weights; no teacher."""
    names = []

    def look(runner):
        ema = next(h for h in runner.hooks if isinstance(h, EMAHook))
        names.append(list(ema.ema_model.module.state_dict()))
        names.append(list(runner.model.state_dict()))

    runner, watch = train(
        tiny, tmp_path, both(tiny), EMAHook(momentum=0.25),
        At(before_train=look), iters=3, save=3)
    assert names[0] == names[1]
    saved = load(tmp_path, 3)
    average = watch.weights[0]
    for weights in watch.weights[1:]:
        average = {n: v.lerp(weights[n], 0.25) for n, v in average.items()}
    stock = assert_stock(saved, runner.cfg.model)
    for name, value in stock.named_parameters():
        torch.testing.assert_close(value.detach(), average[name])
        assert torch.equal(saved['ema_state_dict'][f'module.{name}'],
                           watch.weights[-1][name])
    # with EMAHook `state_dict` is the average, and so are the modules in it
    entry = saved['mmselfkd']
    for name, value in average.items():
        if name.startswith('mmselfkd.'):
            name = name.removeprefix('mmselfkd.')
            torch.testing.assert_close(entry['modules'][name], value)
            assert torch.equal(entry['ema'][name],
                               watch.weights[-1][f'mmselfkd.{name}'])


# -- what changes the forward pass --------------------------------------------


@pytest.mark.parametrize('method', ['both', 'mixskd'])
def test_activation_checkpointing_changes_nothing(tiny, tmp_path, method):
    hook = MIX
    if method == 'both':  # and what leaves a part that runs again
        hook = both(tiny, loss_in=dict(type='NFDLoss', source=pair(
            'backbone.layer2', 'big:backbone.layer2')))
    _, expected = train(tiny, tmp_path / 'a', hook)
    _, with_cp = train(tiny, tmp_path / 'b', hook,
                       **{'model.backbone.with_cp': True})

    def edit(cfg):
        cfg.activation_checkpointing = ['backbone.layer2', 'backbone.layer4']

    _, wrapped = train(tiny, tmp_path / 'c', hook, edit=edit)
    for watch in (with_cp, wrapped):
        assert watch.logs == expected.logs
        assert_equal(watch.weights[-1], expected.weights[-1])


def test_efficient_conv_bn_eval(tiny, tmp_path, monkeypatch):
    """Norms in eval mode are folded into the convolutions in front."""
    ran = []
    original = efficient_conv_bn_eval.efficient_conv_bn_eval_forward
    monkeypatch.setattr(
        efficient_conv_bn_eval, 'efficient_conv_bn_eval_forward',
        lambda *args: ran.append(1) or original(*args))
    changes = {'model.backbone.norm_eval': True}
    _, expected = train(tiny, tmp_path / 'a', both(tiny), **changes)
    assert not ran
    _, folded = train(
        tiny, tmp_path / 'b', both(tiny),
        efficient_conv_bn_eval=['backbone', 'decode_head'], **changes)
    assert len(ran) > 20  # ResNet-18, twice
    for log, other in zip(expected.logs, folded.logs):
        assert log == pytest.approx(other, rel=1e-3, abs=1e-4)
    for name, value in expected.weights[0].items():
        torch.testing.assert_close(
            folded.weights[0][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_efficient_conv_bn_eval_leaves_no_module_to_tap(tiny, tmp_path):
    """Modules inside what it rewrites do not run any more: an error."""
    hook = both(tiny, loss_in=dict(type='NFDLoss', source=pair(
        'backbone.layer2', 'big:backbone.layer2')))
    runner = tiny.build(config(
        tiny, tmp_path, hook, efficient_conv_bn_eval=['backbone']))
    with pytest.raises(ConfigError, match=(
            "'backbone.layer2'.*did not run.*efficient_conv_bn_eval has "
            "rewritten 'backbone'.*tap 'backbone' itself")):
        runner.train()
    assert runner.iter == 0
    assert_untouched(runner.model)


def test_compiled_training_gives_the_same(tiny, tmp_path):
    """``compile`` compiles `train_step`, in which everything of ours runs.

    The compiler falls back on Python in mmseg's loss (`Tensor.item`), at the
    backward pass, in generators and where a teacher ends its forward pass by
    an exception; the taps fire all the same. A weight that changes in each
    iteration is another graph each time, until the compiler gives up on that
    function.
    """
    ramp = dict(type='LinearRamp', start_factor=0.5, end=1)
    hook = both(tiny, short(tiny.teacher()['config']))
    hook['losses']['loss_nfd']['schedule'] = ramp
    _, expected = train(tiny, tmp_path / 'a', hook, edit=short)
    from torch._dynamo.utils import counters
    torch._dynamo.reset()
    counters.clear()

    def edit(cfg):
        short(cfg)
        cfg.compile = dict(backend='eager')

    _, compiled = train(tiny, tmp_path / 'b', hook, edit=edit)
    assert counters['stats']['unique_graphs'] > 1
    torch._dynamo.reset()
    assert len(compiled.logs) == 2
    for log, other in zip(expected.logs, compiled.logs):
        assert log == pytest.approx(other, rel=1e-4)
    for name, value in expected.weights[-1].items():
        torch.testing.assert_close(compiled.weights[-1][name], value)


def short(cfg):
    """Two stages and no auxiliary head: less to compile."""
    cfg['model']['backbone'].update(
        num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    head = cfg['model']['decode_head']
    head.update(in_index=1, in_channels=head['in_channels'] // 4)
    cfg['model'].pop('auxiliary_head')
    return dict(config=cfg, checkpoint='random')


# -- loops, validation, checkpoints -------------------------------------------


@pytest.mark.parametrize('method', ['both', 'mixskd'])
def test_validation_leaves_no_trace_in_training(tiny, tmp_path, method):
    """Without a random flip: mmengine's loaders draw from its stream."""
    hook = MIX if method == 'mixskd' else both(tiny)
    _, without = train(tiny, tmp_path / 'a', hook, edit=still, iters=3)
    _, between = train(tiny, tmp_path / 'b', hook, EMAHook(), edit=still,
                       iters=3, **{'train_cfg.val_interval': 1})
    assert between.logs == without.logs
    assert_equal(between.weights[-1], without.weights[-1])


@pytest.mark.parametrize('ema', [(), (EMAHook, )])
def test_the_best_checkpoint_is_a_stock_student(tiny, tmp_path, ema):
    seen = {}

    def keep(runner, metrics):
        seen[runner.iter] = metrics['mIoU']

    runner, _ = train(
        tiny, tmp_path, both(tiny), At(after_val_epoch=keep),
        *(kind(momentum=0.5) for kind in ema), iters=3, **{
            'train_cfg.val_interval': 1, 'optim_wrapper.optimizer.lr': 0.1,
            'default_hooks.checkpoint.save_best': 'mIoU'})
    path, = tmp_path.glob('best_mIoU_iter_*.pth')
    best = int(path.stem.rpartition('_')[2])
    assert seen[best] == max(seen.values())
    assert_stock(torch.load(path, weights_only=False), runner.cfg.model)
    again = tiny.build(tiny.config(tmp_path / 'x', load_from=str(path))).val()
    assert again['mIoU'] == seen[best]


def test_epochs_resumed(tiny, tmp_path):
    """Epoch by epoch, validated in between, shuffled anew in each."""
    def edit(cfg):
        cfg.train_dataloader.dataset.pipeline.pop(2)
        cfg.train_cfg.val_interval = 1

    hook = both(tiny)
    runner, whole = train(tiny, tmp_path, hook, edit=edit, iters=2, save=1,
                          by_epoch=True)
    assert len(whole.logs) == 8
    assert_stock(torch.load(tmp_path / 'epoch_2.pth', weights_only=False),
                 runner.cfg.model)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    _, resumed = train(tiny, tmp_path, hook, edit=edit, iters=2,
                       by_epoch=True, resume=True)
    assert resumed.logs == whole.logs[4:]
    assert_equal(resumed.weights[-1], whole.weights[-1])


def test_flexible_runner_is_refused(tiny, tmp_path):
    cfg = tiny.config(tmp_path, both(tiny), runner_type='FlexibleRunner')
    cfg.experiment_name = 'flexible'
    cfg.strategy = dict(type='SingleDeviceStrategy')
    cfg.env_cfg = dict(dist_cfg=dict(backend='gloo'))
    with pytest.raises(ConfigError) as error:
        RUNNERS.build(cfg).train()
    assert "runner_type = 'FlexibleRunner'" in str(error.value)


# -- the host -----------------------------------------------------------------


def test_one_run_inside_another(tiny, tmp_path):
    """Another method, in the middle of an iteration of the first one."""
    _, alone = train(tiny, tmp_path / 'a', both(tiny), iters=3)
    _, other_alone = train(tiny, tmp_path / 'b', MIX)
    others = []

    def inside(runner, **_):
        if runner.iter == 1:
            with randomness.preserved():
                others.append(train(tiny, tmp_path / 'c', MIX))

    _, outer = train(tiny, tmp_path / 'd', both(tiny),
                     At(after_train_iter=inside), iters=3)
    assert outer.logs == alone.logs
    assert_equal(outer.weights[-1], alone.weights[-1])
    (_, inner), = others
    assert inner.logs == other_alone.logs
    assert_equal(inner.weights[-1], other_alone.weights[-1])


def tensors():
    alive = [x for x in gc.get_objects()
             if type(x) in (torch.Tensor, nn.Parameter)]
    sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
             for x in alive}
    return len(alive), sum(sizes.values())


def resident():
    """Bytes of the process in memory; 0 where the system does not tell."""
    statm = Path('/proc/self/statm')
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_memory_does_not_grow(tiny, tmp_path):
    """Nothing of an iteration outlives it, not even until a collection."""
    hook = both(tiny)
    hook['teacher'].update(
        average=dict(type='EMATeacher'), mix=dict(type='MixTeacher'))
    mixed = pair('mix:interpolated.features', 'mix:mixed.features')
    hook['losses'].update(
        loss_average=dict(
            type='KDLoss', source=pair('logits', 'average:logits')),
        loss_dis=dict(type='MixSKDAdversarialLoss', source=mixed))
    seen = []

    def look(runner, **_):
        if runner.iter + 1 == 10:
            gc.collect()
            gc.disable()  # what is freed from here on was in no cycle
        if runner.iter + 1 in (10, 30, 60):
            seen.append((*tensors(), resident()))

    runner = tiny.build(config(tiny, tmp_path, hook, iters=60))
    runner.register_hook(At('LOWEST', after_train_iter=look))
    try:
        runner.train()
    finally:
        gc.enable()
    first, second, third = seen
    assert first[:2] == second[:2] == third[:2]
    assert third[2] - second[2] < 2**22


@pytest.mark.parametrize('changes, source, says', [
    ({'model.backbone.with_cp': True}, 'backbone.layer3.0.conv1', ': what'),
    ({'model.backbone.frozen_stages': 2}, 'backbone[1]', ': what'),
    ({'model.backbone.frozen_stages': 2}, 'backbone',
     ' there: level 0, 1 (0 to 3) of what')])
def test_a_term_that_trains_nothing_is_named(
        tiny, tmp_path, capsys, changes, source, says):
    """Inside a checkpointed part, and in a frozen stage; the levels too."""
    loss = dict(type='PairwiseLoss', source=source)
    cfg = tiny.config(
        tmp_path, dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(),
                       losses=dict(loss_pa=loss)), **changes)
    tiny.build(cfg).train()
    text = capsys.readouterr().out
    assert text.count('distill.loss_pa trains nothing') == 1
    assert f'distill.loss_pa trains nothing{says} it looks' in text
