"""Stopped and resumed is bit for bit the same as not stopped."""
import pytest
import torch
from mmengine.hooks import Hook

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


def logged(checkpoint):
    """What was logged up to the checkpoint, but for times and the like."""
    return {name: buffer.data[0].tolist() for name, buffer in
            checkpoint['message_hub']['log_scalars'].items()
            if 'loss' in name or 'distill' in name}


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
    assert len(logged(whole)['train/distill.loss_nfd']) == 4
    assert_equal(logged(whole), logged(resumed))
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


HO = dict(type='HolisticLoss', source='logits', loss_weight=0.1)
FOLLOWS = dict(loss_kd=dict(type='KDLoss', source='logits'))


@pytest.mark.parametrize('name, before, after', [
    ('loss_ho', dict(losses=dict(loss_ho=HO)),
     dict(losses=dict(loss_ho=dict(HO, conditional=False)))),
    ('loss_ho', dict(losses=dict(loss_ho=HO)),
     dict(losses=dict(loss_ho=dict(HO, optimizer=dict(type='Adam'))))),
    ('teacher', dict(losses=FOLLOWS, teacher=dict(type='EMATeacher')),
     dict(losses=FOLLOWS, teacher=dict(type='SnapshotTeacher', interval=1)))])
def test_a_part_of_another_kind_starts_anew(
        tiny, tmp_path, capsys, name, before, after):
    """Another discriminator, optimizer or teacher of the same name."""
    def go(hook, **changes):
        hook = dict(dict(type='mmselfkd.DistillHook',
                         teacher=tiny.teacher()), **hook)
        tiny.build(tiny.config(tmp_path, hook, **changes)).train()

    go(before, iters=1)
    go(after, iters=2, resume=True, log_level='INFO')
    line = next(t for t in capsys.readouterr().out.splitlines()
                if 'distillation resumed' in t)
    assert f'kept nothing; added {name}; dropped {name}' in line
    go(after, iters=3, resume=True, log_level='INFO')
    line = next(t for t in capsys.readouterr().out.splitlines()
                if 'distillation resumed' in t)
    assert f'kept {name}; added nothing; dropped nothing' in line


class Start(Hook):
    """The model and its optimizer as training finds them."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.weights = copied(runner.model.state_dict())
        names = {id(p): n for n, p in runner.model.named_parameters()}
        self.momenta = {
            names[id(p)]: state['momentum_buffer'].clone() for p, state in
            runner.optim_wrapper.optimizer.state.items()}
        group, = runner.optim_wrapper.optimizer.param_groups
        self.lr = group['lr']


def copied(state):
    return {name: value.clone() for name, value in state.items()}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A run without distillation, and its checkpoint."""
    import tiny_runs
    folder = tmp_path_factory.mktemp('plain')
    run(tiny_runs, folder, losses=None, iters=1,
        **{'param_scheduler.0.end': 9})
    return folder / 'iter_1.pth', load(folder, 1)


def begin(tiny, work_dir, capsys, *others, **changes):
    """One step of adapters and a self-teacher; its start, and the log."""
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(big=tiny.teacher(), refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_nfd=dict(type='NFDLoss', source=dict(
                student='features', teacher='big:features')),
            loss_at=dict(type='ATLoss', source=dict(
                student='backbone', teacher='refined:neck'))))
    runner = tiny.build(tiny.config(
        work_dir, hook, *others, log_level='INFO',
        **{'param_scheduler.0.end': 9, **changes}))
    start = Start()
    runner.register_hook(start)
    runner.train()
    return start, capsys.readouterr().out


def assert_quiet(text):
    """mmengine's words for keys that do not match."""
    for word in ('missing keys', 'unexpected key', 'size mismatch',
                 'do not match'):
        assert word not in text


@pytest.mark.parametrize('form, extra', [
    ('checkpoint', ()), ('published', ()), ('wrapped', ()), ('bare', ()),
    # the last two are beyond mmengine's EMAHook
    ('checkpoint', (dict(type='EMAHook'), )),
    ('published', (dict(type='EMAHook'), ))])
def test_a_plain_student_starts_a_distilled_run(
        tiny, tmp_path, plain, capsys, form, extra):
    """Every weight and statistic of its own, and not a word about ours."""
    path, saved = plain
    state = saved['state_dict']
    content = dict(
        checkpoint=saved, published=dict(meta={}, state_dict=state),
        wrapped=dict(state_dict={f'module.{k}': v for k, v in state.items()}),
        bare=dict(state))[form]
    torch.save(content, tmp_path / 'student.pth')
    start, text = begin(tiny, tmp_path, capsys, *extra, iters=1,
                        load_from=str(tmp_path / 'student.pth'))
    for name, value in state.items():
        assert torch.equal(start.weights.pop(name), value), name
    assert start.weights and all(
        name.startswith('mmselfkd.') for name in start.weights)
    assert not start.momenta and start.lr == pytest.approx(0.01)
    assert_quiet(text)


def test_what_is_wrong_with_a_start_is_said_of_the_student(
        tiny, tmp_path, plain, capsys):
    """As in a plain run: names of the student, none of ours."""
    state = dict(plain[1]['state_dict'])
    del state['decode_head.conv_seg.bias']
    state['head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=state), tmp_path / 'student.pth')
    _, text = begin(tiny, tmp_path, capsys, iters=1,
                    load_from=str(tmp_path / 'student.pth'))
    start = text.index('do not match exactly')
    line = text[start:text.index('Load checkpoint from', start)]
    assert 'unexpected key in source state_dict: head.weight' in line
    assert 'missing keys in source state_dict: decode_head.conv_seg' in line
    assert 'mmselfkd' not in line


@pytest.mark.parametrize('extra', [(), (dict(type='EMAHook'), )])
def test_a_distilled_run_resumes_a_plain_one(
        tiny, tmp_path, plain, capsys, extra):
    """Student, momenta, iteration and schedule; ours start fresh."""
    path, saved = plain
    start, text = begin(tiny, tmp_path, capsys, *extra, iters=2, resume=True,
                        load_from=str(path))
    for name, value in saved['state_dict'].items():
        assert torch.equal(start.weights.pop(name), value), name
    assert start.weights
    buffers = [saved['optimizer']['state'][i]['momentum_buffer'] for i in
               saved['optimizer']['param_groups'][0]['params']]
    assert not any(name.startswith('mmselfkd.') for name in start.momenta)
    assert_equal(list(start.momenta.values()), buffers)
    assert start.lr == saved['optimizer']['param_groups'][0]['lr'] < 0.01
    assert_quiet(text)
    line = next(t for t in text.splitlines() if 'distillation resumed' in t)
    assert 'kept nothing; added loss_nfd.0.bias, loss_nfd.0.weight' in line
    assert 'dropped nothing' in line
    saved = load(tmp_path, 2)
    assert saved['meta']['iter'] == 2 and saved['mmselfkd']['modules']
