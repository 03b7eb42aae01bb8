"""Bad input: an error before training, with key, value and what is allowed."""
import random

import numpy as np
import pytest
import torch
from helpers import KD, NFD, At, assert_clean, pair, train
from mmengine.hooks import EMAHook
from mmseg.models import ResNetV1c
from mmseg.registry import MODELS as MMSEG_MODELS

from mmselfkd import ConfigError


def start(tiny, tmp_path, losses=None, hook=None, **changes):
    """Train with one hook; returns what the error says."""
    entry = dict(
        dict(type='mmselfkd.DistillHook', teacher=tiny.teacher(),
             losses=losses if losses is not None else dict(loss_kd=KD)),
        **(hook or {}))
    entry = {k: v for k, v in entry.items() if v != 'absent'}
    with pytest.raises(ConfigError) as error:
        runner = tiny.build(tiny.config(tmp_path, entry, **changes))
        runner.train()
    if 'runner' in locals():
        assert runner.iter == 0
        assert_clean(runner)
    return str(error.value)


@pytest.mark.parametrize('losses, says', [
    ({}, ['DistillHook.losses = {}', 'at least one loss']),
    ([KD], ['DistillHook.losses', 'a dict of losses']),
    (dict(loss_kd=5), ['losses.loss_kd = 5', 'dict is needed']),
    (dict(kd=KD), ['losses.kd', "'loss_kd'"]),
    ({1: KD}, ['losses.1', "'loss_1'"]),
    ({'loss.kd': KD}, ['losses.loss.kd', 'letters']),
    (dict(loss_kd=dict(source='logits')), ['losses.loss_kd', '`type`']),
    (dict(loss_kd=dict(KD, type=5)),
     ['losses.loss_kd.type = 5', 'not registered']),
    (dict(loss_kd=dict(KD, type='KDLos')),
     ["losses.loss_kd.type = 'KDLos'", "nearest: 'KDLoss'"]),
    (dict(loss_kd=dict(KD, temprature=2.)),
     ['losses.loss_kd.temprature = 2.0', "nearest: 'temperature'"]),
    (dict(loss_kd=dict(KD, temperature=0.)),
     ['losses.loss_kd', 'temperature', '0.0', 'above 0']),
    (dict(loss_kd=dict(type='KDLoss')), ['losses.loss_kd.source is missing']),
    (dict(loss_kd=dict(KD, source='logit')),
     ["losses.loss_kd.source = 'logit'", "nearest: 'logits'"]),
    (dict(loss_kd=dict(KD, source='decode_head')),
     ["losses.loss_kd.source = 'decode_head'", 'did not run',
      "such as 'decode_head.", "'logits', 'features'"]),
    (dict(loss_kd=dict(KD, source=['logits', 3])), ['a list of strings']),
    (dict(loss_kd=dict(KD, source=dict(student='logits'))),
     ["exactly the keys 'student' and 'teacher'"]),
    (dict(loss_x=dict(type='NFDLoss', source='backbone[7]')),
     ["source = 'backbone[7]'", '0 to 3']),
    (dict(loss_x=dict(type='NFDLoss', source=pair(
        'backbone', 'backbone[3]'))),
     ['losses.loss_x.source', '4 levels of the student', '1 of the teacher']),
    (dict(loss_kd=dict(KD, source=pair('logits', 'big:logits'))),
     ["'big:logits'", "no teacher 'big'", "'teacher'"]),
    (dict(loss_kd=dict(KD, loss_weight=-1)),
     ['losses.loss_kd.loss_weight', '0 or more', 'got -1']),
    (dict(loss_kd=dict(KD, loss_weight=float('nan'))),
     ['losses.loss_kd.loss_weight', 'finite', 'got nan']),
    (dict(loss_kd=dict(KD, loss_weight='1')),
     ["losses.loss_kd.loss_weight = '1': a number is needed, or 'auto'"]),
    (dict(loss_kd=dict(KD, loss_weight=10**400)),
     ['losses.loss_kd.loss_weight', 'at most 1e+12', 'got 1000']),
    (dict(loss_kd=dict(KD, classes=0)),
     ['losses.loss_kd.classes', '1 or more', 'got 0']),
    (dict(loss_x=dict(NFD, foreground=1.5)),
     ['losses.loss_x.foreground', 'at most 1', 'got 1.5']),
    (dict(loss_kd=dict(KD, schedule=dict(type='LinearRamp',
                                         end_factor=10**400))),
     ['losses.loss_kd.schedule', 'end_factor', 'at most 1e+12']),
    (dict(loss_kd=dict(KD, temperature=1e-45)),
     ['losses.loss_kd', 'temperature', '1e-45', 'from 1e-12']),
    *((dict(loss_ho=dict(type='HolisticLoss', source='logits',
                         optimizer=dict(type='SGD', lr=0.1) | wrong)),
       ['losses.loss_ho.optimizer', *wrong])
      for wrong in (dict(lr=float('nan')), dict(lr=-0.1),
                    dict(lr=float('inf')), dict(momentum=float('nan')))),
    (dict(loss_kd=dict(KD, schedule=dict(type='LinearRmp'))),
     ["losses.loss_kd.schedule.type = 'LinearRmp'", "'LinearRamp'"]),
    (dict(loss_kd=dict(KD, schedule=dict(type='LinearRamp', end=50))),
     ['losses.loss_kd.schedule', '50', 'counted in iterations', 'run of 2']),
    (dict(loss_kd=dict(KD, schedule=dict(type='Stop', end=9,
                                         by_epoch=True))),
     ['losses.loss_kd.schedule', '9', 'counted in epochs', 'run of 1']),
    (dict(loss_kd=dict(KD, schedule=dict(type='Stop'))),
     ['losses.loss_kd.schedule.end is missing']),
    (dict(loss_ho=dict(type='HolisticLoss', source='logits',
                       optimizer=dict(type='SDG', lr=1.))),
     ['losses.loss_ho.optimizer', 'SDG']),
    (dict(loss_ho=dict(type='HolisticLoss', source='logits',
                       optimizer=dict(type='LBFGS'))),
     ['losses.loss_ho.optimizer', 'LBFGS', 'several times']),
    (dict(loss_x=dict(type='NFDLoss', source='features', dims='wh')),
     ['losses.loss_x', 'dims', "'wh'", "'hw'"]),
])
def test_bad_losses(tiny, tmp_path, losses, says):
    message = start(tiny, tmp_path, losses)
    for part in says:
        assert part in message, message


@pytest.mark.parametrize('hook, says', [
    (dict(looses=1), ['DistillHook.looses = 1', "nearest: 'losses'"]),
    (dict(teacher='absent'), ['DistillHook.teacher = None']),
    (dict(teacher={}), ['DistillHook.teacher = {}']),
    (dict(task_schedule=dict(type='Ramp')), ['DistillHook.task_schedule']),
    (dict(task_schedule={}), ['DistillHook.task_schedule = {}']),
    (dict(task_schedule=dict(type='LinearRamp', end=7)),
     ['DistillHook.task_schedule', '7', 'counted in iterations', 'run of 2']),
    (dict(type='mmselfkd.NFDHook', losses=dict(loss_nfd=None)),
     ['NFDHook.losses', 'at least one loss']),
    (dict(type='mmselfkd.NFDHook', losses=dict(loss_nf=None)),
     ['NFDHook.losses.loss_nf = None', "nearest: 'loss_nfd'"]),
    (dict(type='mmselfkd.NFDHook', losses=dict(loss_nf=dict(loss_weight=1))),
     ['NFDHook.losses.loss_nf', "nearest: 'loss_nfd'"]),
])
def test_bad_hook(tiny, tmp_path, hook, says):
    message = start(tiny, tmp_path, hook=hook)
    for part in says:
        assert part in message, message


def test_other_number_of_classes(tiny, tmp_path):
    message = start(tiny, tmp_path, hook=dict(teacher=tiny.teacher(
        classes=5)))
    assert 'losses.loss_kd' in message
    assert 'student has 7 classes and the teacher 5' in message


def test_one_sigmoid_channel_has_no_pairs_of_classes(tiny, tmp_path):
    one = {'num_classes': 2, 'out_channels': 1, 'threshold': 0.3}
    changes = {f'model.{head}.{k}': v for head in (
        'decode_head', 'auxiliary_head') for k, v in one.items()}
    changes.update({f'model.{head}.loss_decode.use_sigmoid': True for head in (
        'decode_head', 'auxiliary_head')})
    teacher = tiny.teacher(classes=2)
    for head in ('decode_head', 'auxiliary_head'):
        teacher['config']['model'][head].update(one)
        teacher['config']['model'][head]['loss_decode'] = dict(
            type='CrossEntropyLoss', use_sigmoid=True)
    changes['train_dataloader.dataset.pipeline'] = [
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
        dict(type='BinaryLabels'), dict(type='PackSegInputs')]
    message = start(tiny, tmp_path, hook=dict(
        teacher=teacher, losses=dict(loss_x=dict(
            type='ICSDLoss', source='logits'))), **changes)
    assert 'losses.loss_x' in message and 'there is one class' in message
    assert "use type='KDLoss' with source='logits'" in message


def test_several_teachers_need_names_in_the_source(tiny, tmp_path):
    message = start(tiny, tmp_path, hook=dict(
        teacher=dict(a=tiny.teacher(), b=tiny.teacher())))
    assert "source = 'logits'" in message and "['a', 'b']" in message


def test_ema_hook_in_front_of_ours(tiny, tmp_path):
    cfg = tiny.config(
        tmp_path, dict(type='mmselfkd.NFDHook', teacher=tiny.teacher()),
        dict(type='EMAHook', priority='VERY_HIGH'))
    runner = tiny.build(cfg)
    assert any(isinstance(h, EMAHook) for h in runner.hooks)
    with pytest.raises(ConfigError, match='EMAHook'):
        runner.train()


def test_runner_without_config_cannot_have_adapters(tiny, tmp_path):
    runner = tiny.build(tiny.config(tmp_path, dict(
        type='mmselfkd.NFDHook', teacher=tiny.teacher())))
    runner.cfg.pop('optim_wrapper')
    with pytest.raises(ConfigError, match='optim_wrapper'):
        runner.train()
    assert_clean(runner)


def test_optimizer_that_leaves_the_adapters_out(tiny, tmp_path):
    runner = tiny.build(tiny.config(tmp_path, dict(
        type='mmselfkd.NFDHook', teacher=tiny.teacher())))
    original = runner.build_optim_wrapper

    def build(cfg):
        wrapper = original(cfg)
        if hasattr(runner.model, 'mmselfkd'):
            wrapper.optimizer.param_groups[0]['params'] = wrapper.optimizer \
                .param_groups[0]['params'][:-2]
        return wrapper

    runner.build_optim_wrapper = build
    with pytest.raises(ConfigError, match=r'mmselfkd\.loss_nfd\..*weight'):
        runner.train()


def drawn():
    """Where Python's, NumPy's and torch's generators are."""
    return (random.getstate(), np.random.get_state()[1].tolist(),
            np.random.get_state()[2], torch.get_rng_state().tolist())


def test_nothing_of_the_random_stream_is_used(tiny, tmp_path):
    """The rehearsal, adapters and teachers draw numbers of their own."""
    states = []

    def look(runner):
        states.append(drawn())

    train(tiny.config(tmp_path, dict(
        type='mmselfkd.SKDHook', teacher=tiny.teacher(),
        losses=dict(loss_nfd=NFD)), iters=1),
        At('VERY_HIGH', before_run=look), At('LOWEST', before_run=look))
    assert states[0] == states[1]


@pytest.mark.parametrize('hook', [
    dict(type='mmselfkd.SKDHook', teacher=True),
    dict(type='mmselfkd.FRSKDHook'), dict(type='mmselfkd.MixSKDHook')])
def test_the_student_draws_what_it_draws_without_distillation(
        tiny, tmp_path, hook):
    """Dropout, augmentation and order of the data in every iteration."""
    hook = dict(hook)
    if 'teacher' in hook:
        hook['teacher'] = tiny.teacher()
    seen = [train(tiny.config(tmp_path / str(len(hooks)), *hooks, iters=3),
                  look=lambda runner: drawn())[1].seen
            for hooks in ([], [hook])]
    assert seen[0] == seen[1] and seen[0][0] != seen[0][1]


def test_teacher_that_cannot_run(tiny, tmp_path):
    teacher = tiny.teacher()
    teacher['config']['model']['decode_head']['in_index'] = 7
    message = start(tiny, tmp_path, hook=dict(teacher=teacher))
    assert 'DistillHook.teacher: cannot run' in message
    assert 'IndexError' in message


def test_one_of_several_teachers_to_inherit_from(tiny, tmp_path):
    source = pair('logits', 'a:logits')
    message = start(
        tiny, tmp_path, dict(loss_kd=dict(KD, source=source)),
        hook=dict(inherit='decode_head',
                  teacher=dict(a=tiny.teacher(), b=tiny.teacher())))
    assert "inherit = 'decode_head'" in message
    assert "'<name>:decode_head'" in message and "['a', 'b']" in message


@pytest.mark.parametrize('unused', [
    dict(config='nowhere.py', checkpoint='random'), dict(type='SelfTeacher'),
    dict(type='EMATeecher')])
def test_teacher_that_no_loss_looks_at(tiny, tmp_path, unused):
    """A mistake: its own ones would never show either."""
    source = pair('logits', 'a:logits')
    message = start(
        tiny, tmp_path, dict(loss_kd=dict(KD, source=source)),
        hook=dict(teacher=dict(a=tiny.teacher(), b=unused)))
    assert f'DistillHook.teacher.b = {unused}' in message
    assert 'no loss looks at' in message and "'b:...'" in message


@pytest.mark.parametrize('name', ['loss_x', 'a.b', '', 'items', 'training'])
def test_names_that_a_teacher_cannot_have(tiny, tmp_path, name):
    source = pair('logits', f'{name}:logits')
    message = start(tiny, tmp_path, dict(loss_x=dict(KD, source=source)),
                    hook=dict(teacher={name: dict(type='SelfTeacher')}))
    assert f'DistillHook.teacher.{name}' in message


@pytest.mark.parametrize('teacher, says', [
    (dict(type='MixTeacher', source=['backbone', 5]), 'source'),
    (dict(type='MixTeacher', alpha=True), 'alpha = True'),
    (dict(type='SelfTeacher', source=[['backbone']]), 'source'),
    (dict(type='SelfTeacher', neck=0), 'neck = 0'),
    (dict(type='SelfTeacher', neck=dict(type='BiFPN', weighted='no')),
     "neck = {'type': 'BiFPN', 'weighted': 'no'"),
    (dict(type='SelfTeacher', head=[]), 'head = []'),
    (dict(type='SnapshotTeacher', interval=1, by_epoch='yes'),
     "by_epoch must be True or False, but got 'yes'"),
])
def test_arguments_of_teachers(tiny, tmp_path, teacher, says):
    message = start(tiny, tmp_path, hook=dict(teacher=teacher))
    assert f'DistillHook.teacher.{says}' in message


@pytest.mark.parametrize('content', [
    dict(state_dict=None), dict(state_dict=[]), {1: torch.zeros(1)},
    dict(state_dict=dict(weight=5))])
def test_checkpoint_without_weights(tiny, tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    message = start(tiny, tmp_path, hook=dict(
        teacher=tiny.teacher(checkpoint=str(tmp_path / 'x.pth'))))
    assert 'DistillHook.teacher.checkpoint' in message
    assert 'holds no weights' in message


def test_teacher_whose_import_fails(tiny, tmp_path):
    teacher = tiny.teacher()
    teacher['config']['custom_imports'] = dict(
        imports=['no_such_module'], allow_failed_imports=False)
    message = start(tiny, tmp_path, hook=dict(teacher=teacher))
    assert 'DistillHook.teacher.config' in message
    assert 'no_such_module' in message


@MMSEG_MODELS.register_module()
class OddTokens(ResNetV1c):
    """A module in it gives tokens of which one is missing."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = torch.nn.Identity()

    def forward(self, x):
        levels = super().forward(x)
        self.tokens(levels[0].flatten(2).transpose(1, 2)[:, 1:])
        return levels


def test_tokens_against_a_map(tiny, tmp_path):
    """Of tokens nobody knows where they lie in the image."""
    message = start(
        tiny, tmp_path, dict(loss_nfd=dict(
            NFD, source=pair('backbone.tokens', 'backbone[0]'))),
        **{'model.backbone.type': 'OddTokens'})
    assert 'losses.loss_nfd.source' in message and 'tokens' in message
    assert '(2, 4, 63, 1)' in message and '(2, 8, 8, 8)' in message


def test_tokens_of_a_known_grid_are_a_map(tiny, tmp_path, spy):
    cfg = tiny.config(tmp_path, dict(
        type='mmselfkd.DistillHook', teacher=tiny.teacher(),
        losses=dict(loss_x=dict(type='Spy', source=pair(
            ['backbone.layers.0.1.0', 'backbone[0]'],
            ['backbone[0]', 'backbone[0]'])))), iters=1)
    cfg.model.backbone = dict(
        type='MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1], sr_ratios=[8, 4, 2, 1],
        patch_sizes=[7, 3, 3, 3], mlp_ratio=2)
    cfg.model.decode_head.in_channels = 8
    cfg.model.auxiliary_head = None
    runner, _ = train(cfg)
    (tokens, _), (level, _) = spy.calls[-2:]
    norm = runner.model.backbone.layers[0][2]  # between the two
    expected = norm(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert expected.shape == (2, 8, 8, 8)
    assert torch.cosine_similarity(expected, level).min() > 0.99
