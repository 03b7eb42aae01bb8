"""Stopped and resumed is bit for bit the same as not stopped."""
import pytest
import torch

from mmselfkd import DistillHook

LOSSES = dict(
    loss_nfd=dict(type='NFDLoss', source='features'),
    loss_ho=dict(type='HolisticLoss', source='logits', loss_weight=0.1))


def run(tiny, work_dir, losses=LOSSES, extra_hooks=(), **changes):
    hooks = [dict(type='mmselfkd.DistillHook', losses=losses,
                  teacher=tiny.teacher()), *extra_hooks] if losses else [
                      *extra_hooks]
    runner = tiny.build(tiny.config(work_dir, *hooks, **changes))
    runner.train()
    return runner


def load(work_dir, iteration):
    return torch.load(work_dir / f'iter_{iteration}.pth', weights_only=False)


def assert_equal(first, second, path=''):
    """Nested dicts, lists and tensors, bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f'{path}/{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for i, (a, b) in enumerate(zip(first, second)):
            assert_equal(a, b, f'{path}/{i}')
    else:
        assert first == second, path


@pytest.mark.parametrize('optimizer', [
    dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
    dict(optimizer=dict(type='AdamW', lr=1e-3),
         paramwise_cfg=dict(custom_keys=dict(mmselfkd=dict(lr_mult=3.)))),
])
@pytest.mark.parametrize('extra', [(), (dict(type='EMAHook'), )])
def test_two_and_two_are_four(tiny, tmp_path, optimizer, extra):
    """Same data in the same order: the sampler is restarted on resume."""
    changes = dict(
        {'train_dataloader.batch_size': 8, 'train_dataloader.sampler.shuffle':
         False,
         'model.decode_head.dropout_ratio': 0.,
         'model.auxiliary_head.dropout_ratio': 0.})
    losses = dict(LOSSES)
    losses['loss_nfd'] = dict(losses['loss_nfd'],
                              schedule=dict(type='LinearRamp', end=4))
    losses['loss_ho'] = dict(losses['loss_ho'], mode='hinge')  # draws nothing

    def go(where, **more):
        cfg = tiny.config(where, dict(
            type='mmselfkd.DistillHook', losses=losses,
            teacher=tiny.teacher()), *extra, **changes, iters=4, **more)
        cfg.train_dataloader.dataset.pipeline.pop(2)  # the random flip
        cfg.optim_wrapper = dict(type='OptimWrapper', **optimizer)
        return cfg

    tiny.build(go(tmp_path / 'a')).train()
    first = tiny.build(go(tmp_path / 'b'))
    stop = first.train_loop  # built, so that it can be stopped half way
    original = stop.run_iter

    def run_iter(batch):
        if first.iter == 2:
            raise KeyboardInterrupt
        original(batch)

    stop.run_iter = run_iter
    with pytest.raises(KeyboardInterrupt):
        first.train()
    tiny.build(go(tmp_path / 'b', resume=True)).train()
    whole, resumed = load(tmp_path / 'a', 4), load(tmp_path / 'b', 4)
    for entry in ('state_dict', 'optimizer', 'param_schedulers', 'mmselfkd'):
        assert_equal(whole[entry], resumed[entry], entry)
    if extra:
        assert_equal(whole['ema_state_dict'], resumed['ema_state_dict'])


def test_ema_student_is_stock_too(tiny, tmp_path):
    run(tiny, tmp_path / 'a', extra_hooks=[dict(type='EMAHook')])
    run(tiny, tmp_path / 'b', losses=None, extra_hooks=[dict(type='EMAHook')])
    ours, plain = load(tmp_path / 'a', 2), load(tmp_path / 'b', 2)
    for entry in ('state_dict', 'ema_state_dict'):
        assert list(ours[entry]) == list(plain[entry])
    assert ours['mmselfkd']['ema'].keys() == ours['mmselfkd'][
        'modules'].keys()


def test_changed_losses_say_what_was_kept_added_dropped(
        tiny, tmp_path, capsys):
    run(tiny, tmp_path, iters=1)
    new = dict(
        loss_nfd=dict(type='NFDLoss', source='features'),
        loss_back=dict(type='NFDLoss', source='backbone[3]'))
    saved = load(tmp_path, 1)['mmselfkd']['modules']['loss_nfd.0.weight']
    seen = []

    def look(hook):
        seen.append(hook.terms[0].adapters[0].weight.detach().clone())

    cfg = tiny.config(
        tmp_path, dict(type='mmselfkd.DistillHook', losses=new,
                       teacher=tiny.teacher()),
        iters=2, resume=True, log_level='INFO')
    runner = tiny.build(cfg)
    hook = next(h for h in runner.hooks if isinstance(h, DistillHook))
    original = hook.before_train
    hook.before_train = lambda r: (look(hook), original(r))
    runner.train()
    assert torch.equal(seen[0], saved)
    text = capsys.readouterr().out
    line = next(t for t in text.splitlines() if 'distillation resumed' in t)
    assert 'kept loss_nfd.0.bias, loss_nfd.0.weight' in line
    assert 'added loss_back.0.bias, loss_back.0.weight' in line
    assert 'dropped loss_ho' in line


def test_plain_checkpoint_starts_and_resumes_a_distilled_run(tiny, tmp_path):
    run(tiny, tmp_path, losses=None, iters=1)
    plain = load(tmp_path, 1)
    resumed = run(tiny, tmp_path, iters=2, resume=True)
    assert resumed.iter == 2
    assert load(tmp_path, 2)['mmselfkd']['modules']
    for extra in ((), (dict(type='EMAHook'), )):  # EMAHook loads strictly
        runner = run(tiny, tmp_path / 'c', iters=1, extra_hooks=extra,
                     load_from=str(tmp_path / 'iter_1.pth'),
                     **{'optim_wrapper.optimizer.lr': 0.})
        name = 'backbone.conv1.weight' if hasattr(
            runner.model.backbone, 'conv1') else 'backbone.stem.0.weight'
        assert torch.equal(runner.model.state_dict()[name],
                           plain['state_dict'][name])
