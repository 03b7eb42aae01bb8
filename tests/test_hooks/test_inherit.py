"""The student takes modules over from its teacher at the start."""
import pytest
import torch
from helpers import KD, load, pair, train

from mmselfkd import ConfigError
from mmselfkd.registry import MODELS


@pytest.fixture
def teacher(tiny, tmp_path):
    """A checkpoint of the student's size but for its last stage."""
    torch.manual_seed(5)
    model = MODELS.build(dict(tiny.model(4), _scope_='mmseg'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 't.pth')
    return tiny.teacher(4, str(tmp_path / 't.pth')), model.state_dict()


def run(tiny, work_dir, teacher, inherit, **changes):
    """Train without moving a weight."""
    runner, _ = train(tiny.config(
        work_dir, dict(type='mmselfkd.DistillHook', teacher=teacher,
                       inherit=inherit, losses=dict(loss_kd=KD)),
        dict(type='EMAHook'), iters=1,
        **{'optim_wrapper.optimizer.lr': 0., **changes}))
    return runner.model.state_dict()


def statistics(name):
    return 'running' in name or 'num_batches' in name


def test_named_modules_and_no_others(tiny, tmp_path, teacher):
    cfg, state = teacher
    own = run(tiny, tmp_path / 'a', cfg, ['decode_head', 'backbone.layer4'])
    plain = run(tiny, tmp_path / 'b', cfg, None)
    for name, value in own.items():
        if statistics(name):
            continue
        source = state if name.startswith(
            ('decode_head.', 'backbone.layer4.')) else plain
        assert torch.equal(value, source[name]), name
    assert not torch.equal(plain['decode_head.conv_seg.weight'],
                           state['decode_head.conv_seg.weight'])


def test_ema_copy_starts_from_it_too(tiny, tmp_path, teacher):
    cfg, state = teacher
    run(tiny, tmp_path, cfg, 'decode_head')
    saved = load(tmp_path, 1)
    name = 'decode_head.conv_seg.weight'
    assert torch.equal(saved['state_dict'][name], state[name])
    assert torch.equal(saved['ema_state_dict'][f'module.{name}'], state[name])


def test_weights_of_another_shape_keep_their_start(tiny, tmp_path, teacher):
    cfg, state = teacher
    changes = {'model.decode_head.channels': 6}
    own = run(tiny, tmp_path / 'a', cfg, 'decode_head', **changes)
    plain = run(tiny, tmp_path / 'b', cfg, None, **changes)
    name = 'decode_head.conv_seg.'
    assert torch.equal(own[f'{name}bias'], state[f'{name}bias'])
    assert torch.equal(own[f'{name}weight'], plain[f'{name}weight'])


def test_not_on_resume(tiny, tmp_path, teacher):
    cfg, state = teacher
    run(tiny, tmp_path, cfg, 'decode_head')
    saved = load(tmp_path, 1)
    # EMAHook keeps the weights of the run under `ema_state_dict`
    saved['ema_state_dict']['module.decode_head.conv_seg.bias'].fill_(7.)
    torch.save(saved, tmp_path / 'iter_1.pth')
    own = run(tiny, tmp_path, cfg, 'decode_head', resume=True,
              **{'train_cfg.max_iters': 2})
    assert (own['decode_head.conv_seg.bias'] == 7).all()


def test_resume_that_finds_nothing_is_a_start(tiny, tmp_path, teacher):
    """As in a job that is always started with --resume."""
    cfg, state = teacher
    own = run(tiny, tmp_path, cfg, 'decode_head', resume=True)
    name = 'decode_head.conv_seg.weight'
    assert torch.equal(own[name], state[name])


def test_a_teacher_to_inherit_from_alone(tiny, tmp_path, teacher):
    """No loss looks at it."""
    cfg, state = teacher
    runner, _ = train(tiny.config(
        tmp_path, dict(
            type='mmselfkd.DistillHook', inherit='first:decode_head',
            teacher=dict(first=cfg, average=dict(type='EMATeacher')),
            losses=dict(loss_kd=dict(
                KD, source=pair('logits', 'average:logits')))),
        iters=1, **{'optim_wrapper.optimizer.lr': 0.}))
    name = 'decode_head.conv_seg.weight'
    assert torch.equal(runner.model.state_dict()[name], state[name])


@pytest.mark.parametrize('inherit, hook, says', [
    ('decode_hed', {}, ["DistillHook.inherit = 'decode_hed'",
                        "nearest: 'decode_head'"]),
    (['neck'], {}, ["DistillHook.inherit = 'neck'", 'no such module']),
    (5, {}, ['DistillHook.inherit = 5', 'list of strings']),
    ({}, {}, ['DistillHook.inherit = {}', 'list of strings']),
    ('a:neck', {}, ["no teacher 'a'"]),
    ('decode_head', dict(teacher=dict(type='EMATeacher')),
     ["DistillHook.inherit = 'decode_head'", 'pretrained teacher']),
])
def test_errors(tiny, tmp_path, teacher, inherit, hook, says):
    hook = dict(dict(type='mmselfkd.DistillHook', teacher=teacher[0],
                     inherit=inherit, losses=dict(loss_kd=KD)), **hook)
    with pytest.raises(ConfigError) as error:
        tiny.build(tiny.config(tmp_path, hook)).train()
    for part in says:
        assert part in str(error.value)
