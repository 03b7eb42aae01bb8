"""Stopped and resumed is bit for bit the same as not stopped."""
import copy

import pytest
import tiny_runs
import torch
from helpers import (
    KD,
    NFD,
    NO_DROPOUT,
    At,
    assert_equal,
    copied,
    distillation,
    interrupt,
    keep_order,
    load,
    pair,
    train,
)

HO = dict(type='HolisticLoss', source='logits', loss_weight=0.1)
LOSSES = dict(loss_nfd=NFD, loss_ho=HO)


def distil(**kwargs):
    return dict(dict(type='mmselfkd.DistillHook', losses=LOSSES,
                     teacher=tiny_runs.teacher()), **kwargs)


def logged(checkpoint):
    """What was logged up to the checkpoint, but for times and the like."""
    return {name: buffer.data[0].tolist() for name, buffer in
            checkpoint['message_hub']['log_scalars'].items()
            if 'loss' in name or 'distill' in name}


def stop_and_go(cfg, work_dir, **changes):
    """Checkpoints at the end: of a run, of one that was resumed half way.

    The data come in the same order in both: a sampler is restarted on
    resume.
    """
    keep_order(cfg)
    if 'decode_head' in cfg.model:
        changes = dict(NO_DROPOUT, **changes)
    cfg.merge_from_dict(changes)
    # no batch is drawn twice before it is interrupted
    cfg.train_dataloader.batch_size = 8
    saved = []
    for name, stops in (('whole', False), ('resumed', True)):
        cfg.work_dir = str(work_dir / name)
        if stops:
            interrupt(tiny_runs.build(copy.deepcopy(cfg)), 2)
            cfg.resume = True
        tiny_runs.build(copy.deepcopy(cfg)).train()
        saved.append(load(work_dir / name, cfg.train_cfg.max_iters))
    for entry in ('state_dict', 'optimizer', 'param_schedulers', 'mmselfkd'):
        assert_equal(*(one[entry] for one in saved), entry)
    assert_equal(*map(logged, saved))
    return saved


@pytest.mark.parametrize('optimizer', [
    dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
    dict(optimizer=dict(type='AdamW', lr=1e-3),
         paramwise_cfg=dict(custom_keys=dict(mmselfkd=dict(lr_mult=3.)))),
])
@pytest.mark.parametrize('extra', [(), (dict(type='EMAHook'), )])
def test_two_and_two_are_four(tmp_path, optimizer, extra):
    """Also where a discriminator draws random numbers."""
    ramp = dict(type='LinearRamp', end=4)
    cfg = tiny_runs.config(tmp_path, distil(losses=dict(
        loss_nfd=dict(NFD, schedule=ramp), loss_ho=HO)), *extra, iters=4)
    cfg.optim_wrapper = dict(type='OptimWrapper', **optimizer)
    whole, resumed = stop_and_go(cfg, tmp_path)
    assert len(logged(whole)['train/distill.loss_nfd']) == 4
    if extra:
        assert_equal(whole['ema_state_dict'], resumed['ema_state_dict'])


@pytest.mark.parametrize('name', [
    'AICSDHook', 'FRSKDHook', 'ICSDHook', 'NFDHook', 'SKDHook'])
def test_presets_as_shipped(tmp_path, name):
    """The other presets: where their own tests are."""
    hook = dict(type=f'mmselfkd.{name}')
    if name != 'FRSKDHook':
        hook['teacher'] = tiny_runs.teacher()
    stop_and_go(tiny_runs.config(tmp_path, hook, iters=4), tmp_path)


def test_ema_student_is_stock_too(tiny, tmp_path):
    ema = dict(type='EMAHook')
    train(tiny.config(tmp_path / 'a', distil(), ema))
    train(tiny.config(tmp_path / 'b', ema))
    ours, plain = load(tmp_path / 'a', 2), load(tmp_path / 'b', 2)
    for entry in ('state_dict', 'ema_state_dict'):
        assert list(ours[entry]) == list(plain[entry])
    assert ours['mmselfkd']['ema'].keys() == ours['mmselfkd'][
        'modules'].keys()


def resumed_line(capsys):
    """What the log says of a distillation that was resumed."""
    text = capsys.readouterr().out
    assert 'skip resuming this key' not in text  # mmengine, of a log
    line, = (t for t in text.splitlines() if 'distillation resumed' in t)
    return line


def test_changed_losses_say_what_was_kept_added_dropped(
        tiny, tmp_path, capsys):
    train(tiny.config(tmp_path, distil(), iters=1))
    saved = load(tmp_path, 1)['mmselfkd']['modules']
    started = []
    train(tiny.config(
        tmp_path, distil(losses=dict(
            loss_nfd=NFD, loss_back=dict(NFD, source='backbone[3]'))),
        iters=2, resume=True, log_level='INFO'),
        At(before_train=lambda runner: started.append(
            copied(distillation(runner).trained_modules().state_dict()))))
    for name, value in saved.items():
        assert torch.equal(started[0][name], value), name
    line = resumed_line(capsys)
    assert 'loss_nfd: goes on where it was' in line
    assert 'loss_back: is new' in line
    assert 'loss_ho: is no longer part' in line
    later = logged(load(tmp_path, 2))
    assert len(later['train/distill.loss_nfd']) == 2
    assert len(later['train/distill.loss_back']) == 1
    assert 'train/distill.loss_ho' not in later


FOLLOWS = dict(loss_kd=KD)


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
        train(tiny.config(tmp_path, distil(**hook), **changes))

    go(before, iters=1)
    go(after, iters=2, resume=True, log_level='INFO')
    line = resumed_line(capsys)
    assert f'{name}: starts anew' in line and 'goes on' not in line
    go(after, iters=3, resume=True, log_level='INFO')
    line = resumed_line(capsys)
    assert f'{name}: goes on where it was' in line and 'anew' not in line


def rates(runner):
    """Learning rate and its start of each parameter of ours."""
    names = {id(p): name for name, p in runner.model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['initial_lr'])
        for group in runner.optim_wrapper.optimizer.param_groups
        for p in group['params']}


@pytest.mark.parametrize('schedulers', [
    [dict(type='PolyLR', power=0.9, by_epoch=False)],
    [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)],
    [dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=False),
     dict(type='MultiStepLR', milestones=[3, 4], by_epoch=False)]],
    ids=lambda s: s[0]['type'])
def test_a_new_loss_has_the_learning_rate_of_a_run_from_the_start(
        tiny, tmp_path, schedulers):
    """Its parameters are groups of their own, with a factor of their own."""
    both = dict(loss_nfd=NFD, loss_back=dict(NFD, source='backbone[3]'))
    keys = {'mmselfkd': dict(lr_mult=3.), 'loss_back': dict(lr_mult=7.)}

    def config(folder, losses, **changes):
        cfg = tiny.config(tmp_path / folder, distil(losses=losses), iters=6,
                          **changes)
        cfg.param_scheduler = schedulers
        cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=keys)
        return cfg

    whole = train(config('whole', both), look=rates)[1].seen
    interrupt(tiny.build(config('stopped', dict(loss_nfd=NFD))), 2)
    resumed = train(config('stopped', both, resume=True), look=rates)[1].seen
    assert len(resumed) == 4
    for expected, found in zip(whole[2:], resumed):
        assert found.keys() == expected.keys()
        for name, (rate, start) in expected.items():
            assert found[name] == pytest.approx((rate, start)), name
    ours = {n: v for n, v in whole[3].items() if 'loss_back' in n}
    assert ours and all(start == pytest.approx(0.07)
                        for _, start in ours.values())


def test_an_adapter_of_another_shape_starts_anew(tiny, tmp_path, capsys):
    """Its momentum too: the old one would not fit."""
    train(tiny.config(tmp_path, distil(losses=dict(loss_nfd=NFD)), iters=1))
    seen = []

    def look(runner):
        ours = {id(p) for p in runner.model.mmselfkd.parameters()}
        seen.append([p for p in runner.optim_wrapper.optimizer.state
                     if id(p) in ours])

    train(tiny.config(
        tmp_path, distil(losses=dict(loss_nfd=NFD),
                         teacher=tiny.teacher(12)),
        iters=2, resume=True, log_level='INFO'),
        At('LOWEST', before_train=look))
    assert 'loss_nfd: starts anew' in resumed_line(capsys)
    # the bias goes on as little as the weight: both have another shape
    assert seen == [[]]
    assert load(tmp_path, 2)['meta']['iter'] == 2


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A run without distillation, and its checkpoint."""
    folder = tmp_path_factory.mktemp('plain')
    train(tiny_runs.config(folder, iters=1, **{'param_scheduler.0.end': 9}))
    return folder / 'iter_1.pth', load(folder, 1)


class Start:
    """The model and its optimizer as training finds them."""

    def __init__(self, runner):
        self.weights = copied(runner.model.state_dict())
        names = {id(p): n for n, p in runner.model.named_parameters()}
        self.momenta = {
            names[id(p)]: state['momentum_buffer'].clone() for p, state in
            runner.optim_wrapper.optimizer.state.items()}
        group, = runner.optim_wrapper.optimizer.param_groups
        self.lr = group['lr']


def begin(tiny, work_dir, capsys, *others, **changes):
    """One step of adapters and a self-teacher; its start, and the log."""
    hook = distil(
        teacher=dict(big=tiny.teacher(), refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_nfd=dict(NFD, source=pair('features', 'big:features')),
            loss_at=dict(type='ATLoss', source=pair(
                'backbone', 'refined:neck'))))
    started = []
    train(tiny.config(work_dir, hook, *others, log_level='INFO',
                      **{'param_scheduler.0.end': 9, **changes}),
          At('LOWEST', before_train=lambda runner: started.append(
              Start(runner))))
    return started[0], capsys.readouterr().out


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
    assert 'loss_nfd, refined: is new' in line
    assert 'goes on' not in line and 'no longer' not in line
    saved = load(tmp_path, 2)
    assert saved['meta']['iter'] == 2 and saved['mmselfkd']['modules']
