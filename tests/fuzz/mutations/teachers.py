"""Spoils a teacher: its arguments, its files, what is inherited of it."""
import copy
from math import nan

import torch

from mmselfkd import teachers

from ..models import make_model, see
from ..valid import OURS
from ..values import misspelt, one_illegal
from .base import again, mutation, take_teacher

FOLLOWING = ('EMATeacher', 'SnapshotTeacher')
OWN = (*FOLLOWING, 'SelfTeacher', 'MixTeacher', 'StudentAsTeacher')


def put(rng, case, cfg: dict) -> None:
    take_teacher(rng, case, cfg, 'MixSKDHook' if cfg[
        'type'] == 'MixTeacher' else 'DistillHook')


@mutation
def teacher_argument(rng, case):
    kind = rng.choice([*FOLLOWING, 'MixTeacher'])
    name, value = one_illegal(rng, getattr(teachers, kind), *OURS)
    cfg = dict(dict(interval=1) if kind == 'SnapshotTeacher' else {},
               type=kind, **{name: value})
    put(rng, case, cfg)
    return f'teacher = {cfg}', name


again(teacher_argument)


@mutation
def teacher_that_begins_too_late(rng, case):
    iterations, epochs = case.lengths
    cfg = rng.choice([
        dict(type='EMATeacher', begin=rng.choice([iterations, 100])),
        dict(type='SnapshotTeacher', interval=rng.choice([iterations, 100])),
        dict(type='SnapshotTeacher', by_epoch=True,
             interval=rng.choice([epochs, 100]))])
    put(rng, case, cfg)
    return f'teacher = {cfg}', 'begin' if 'begin' in cfg else 'interval'


@mutation
def teacher_execution(rng, case):
    name, value = one_illegal(rng, teachers.Execution, 'key')
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random', **{name: value}))
    return f'teacher.{name} = {value!r}', name


@mutation
def teacher_type(rng, case):
    kind = rng.choice([*OWN, 'FrozenTeacher'])
    cfg = dict(type=rng.choice([
        misspelt(rng, kind), kind.lower(), 5, True, [], '', 'KDLoss',
        'ResNet']))
    take_teacher(rng, case, cfg)
    return f'teacher = {cfg}', 'type'


@mutation
def unknown_teacher_argument(rng, case):
    kind = rng.choice(OWN)
    name = rng.choice(['momentm', 'checkpoint', 'decay', 'source_', 'width'])
    take_teacher(rng, case, dict(type=kind, **{name: 1}))
    return f'{kind}.{name}', name


@mutation
def snapshot_without_interval(rng, case):
    take_teacher(rng, case, dict(type='SnapshotTeacher'))
    return 'no interval', 'interval'


@mutation
def self_teacher_source(rng, case):
    cfg = dict(type='SelfTeacher', source=rng.choice([
        5, None, [], {}, [5], True, nan, '', 'backbon', 'decode_head',
        'backbone[0]', 'backbone[9]', ['backbone[0]', 'backbone[4]'],
        ['backbone', None], 'backbone.nothing', [['backbone']]]))
    take_teacher(rng, case, cfg, rng.choice(['DistillHook', 'FRSKDHook']))
    if case.head == 'Binary':
        case.hook['losses'] = dict(loss_x=dict(
            type='ATLoss', source='features'))
        case.hook['type'] = 'mmselfkd.DistillHook'
    return f'SelfTeacher.source = {cfg["source"]!r}', (
        'two or more' if cfg['source'] == 'backbone[0]' else 'source')


@mutation
def self_teacher_neck(rng, case):
    neck = rng.choice([
        5, 'BiFPN', True, nan, [1], 0, '', [], dict(width=2),
        dict(type='BiFPNN'),
        dict(type=5), dict(type='BiFPN', width=0),
        dict(type='BiFPN', width=nan), dict(type='BiFPN', width='2'),
        dict(type='BiFPN', num_outs=1), dict(type='BiFPN', num_outs='4'),
        dict(type='BiFPN', weighted='no'), dict(type='BiFPN', weighted=None),
        dict(type='BiFPN', num_layers=0),
        dict(type='BiFPN', num_layers=1.5), dict(type='BiFPN', num_convs=None),
        dict(type='BiFPN', last='down'), dict(type='BiFPN', out_channels=0),
        dict(type='BiFPN', out_channels=[8]), dict(type='BiFPN', widht=2),
        dict(type='BiFPN', out_channels='8'),
        dict(type='BiFPN', in_channels=[3, 5, 7, 9]),
        dict(type='BiFPN', in_channels=[4, 8]),
        dict(type='BiFPN', norm_cfg=dict(type='BNN')),
        dict(type='BiFPN', norm_cfg=5), dict(type='BiFPN', norm_cfg='BN'),
        dict(type='mmseg.FPN', out_channels=8, num_outs=2),
        dict(type='mmseg.ResNet', depth=18), dict(type='mmselfkd.KDLoss')])
    take_teacher(rng, case, dict(type='SelfTeacher', neck=neck))
    return f'SelfTeacher.neck = {neck!r}', 'teacher'


@mutation
def self_teacher_head(rng, case):
    head = rng.choice([
        5, 'SegformerHead', True, nan, [1], 0, '', [], dict(channels=8),
        dict(type='SegformerHed'), dict(type=5), *(
            dict(type='SegformerHead', **one) for one in (
                dict(channels=0), dict(channels='8'), dict(in_index=9),
                dict(in_index=[0, 1, 2, 9]), dict(in_index='x'),
                dict(in_index=None), dict(in_channels=[3, 5, 7, 9]),
                dict(in_channels=5), dict(dropout_ratio=2),
                dict(loss_decode=dict(type='Nothing')), dict(loss_decode=5),
                dict(num_classes=3), dict(num_classes='7'), dict(chanels=8),
                dict(norm_cfg=dict(type='BNN')), dict(sampler=5))),
        dict(type='FCNHead', in_index=-9), dict(type='FCNHead', in_index=0),
        dict(type='FCNHead', in_index=[0, 1]),
        dict(type='ResNet', depth=18), dict(type='FPN', num_outs=1),
        dict(type='mmselfkd.KDLoss')])
    take_teacher(rng, case, dict(type='SelfTeacher', head=head))
    return f'SelfTeacher.head = {head!r}', 'teacher'


@mutation
def mix_teacher_source(rng, case):
    if case.head == 'Binary':
        return None
    cfg = dict(type='MixTeacher', source=rng.choice([
        5, None, [], {}, ['backbone[0]'], ['backbone', 5], [['backbone']],
        True, nan, '', 'backbon', 'decode_head', 'backbone[0]', 'backbone[9]',
        'features', 'logits', 'backbone.nothing']))
    take_teacher(rng, case, cfg, 'MixSKDHook')
    return f'MixTeacher.source = {cfg["source"]!r}', 'source'


@mutation
def batch_of_one(rng, case):
    take_teacher(rng, case, dict(type='MixTeacher'), 'MixSKDHook')
    if case.head == 'Binary':
        return None
    case.cfg['train_dataloader']['batch_size'] = 1
    return 'batch_size = 1 for MixSKD', 'batch_size'


@mutation
def label_free_mix(rng, case):
    """What MixTeacher gives has names of its own."""
    if case.head == 'Binary':
        return None
    take_teacher(rng, case, dict(type='MixTeacher'), 'MixSKDHook')
    case.hook['losses'] = dict(loss_x=dict(type='ATLoss', source=dict(
        student=rng.choice(['backbone[0]', 'teacher:mixed.logits']),
        teacher=rng.choice(['logits', 'features', 'mixed', 'mixed.logits[0]',
                            'backbone', 'mixed.feature']))))
    return f'{case.hook["losses"]}', 'source'


@mutation
def teacher_config(rng, case):
    folder = case.files['']
    model = make_model('FCN', 8)
    kind, value = rng.choice([
        ('missing', f'{folder}/nothing.py'), ('folder', folder), ('', ''),
        ('package', 'nopackage::a.py'), ('package file', 'mmseg::nothing.py'),
        ('', '::'), ('none', None), ('number', 5), ('list', []), ('', True),
        ('list', [model]), ('empty', {}), ('no model', dict(x=1)),
        ('empty', dict(model={})), ('none', dict(model=None)),
        ('text', dict(model='FCN')), ('type', dict(type='Nothing')),
        ('type', dict(model=dict(type='Nothing'))),
        ('no type', dict(model=dict(depth=18))),
        ('argument', dict(model=dict(model, nothing=1))),
        ('backbone', dict(model=dict(model, backbone=5))),
        ('no head', dict(model=dict(model, decode_head=None))),
        ('scope', dict(model=dict(type='ResNet'), default_scope='nothing')),
        ('imports', dict(model=model, custom_imports=dict(
            imports=['no_such_module'], allow_failed_imports=False))),
        ('imports', dict(model=model, custom_imports=5)),
        ('reserved', dict(model=model, filename='x')),
        ('file', 'syntax error in the file\nmodel = = 1\n'),
        ('file', 'x = 1\n'), ('file', 'raise KeyError(1)\n'),
        ('file', 'import no_such_module\nmodel = dict()\n'),
        ('file', "_base_ = 'nothing.py'\n"), ('file', 'model = 5\n'),
        ('file', '\x00\x01'), ('file', 'model = dict(type=1)\n'),
        ('suffix', 'model = 5\n')])
    if kind in ('file', 'suffix'):
        path = f'{folder}/bad.py' if kind == 'file' else f'{folder}/bad.txt'
        case.files[path] = value
        kind, value = f'{kind} with {value!r}', path
    take_teacher(rng, case, dict(config=value, checkpoint='random'))
    return f'teacher.config: {kind}: {str(value)[:60]}', 'config'


again(teacher_config)


@mutation
def no_teacher_config(rng, case):
    take_teacher(rng, case, dict(checkpoint='random'))
    return 'no config', 'config'


@mutation
def teacher_that_cannot_run(rng, case):
    model = make_model('FCN', 8)
    what = rng.choice(['head', 'input', 'index', 'classifier'])
    if what == 'head':
        model['decode_head']['in_channels'] += 1
    elif what == 'input':
        model['backbone']['in_channels'] = 1
    elif what == 'index':
        model['decode_head']['in_index'] = 7
    else:
        model['decode_head'].update(
            in_index=[0, 1], in_channels=[8, 16],
            input_transform='resize_concat', channels=5)
        model['decode_head']['in_channels'] = [8, 15]
    take_teacher(rng, case, dict(config=model, checkpoint='random'))
    return f'the teacher does not fit together: {what}', 'teacher'


@mutation
def other_bands(rng, case):
    """Of the channels of an image a teacher sees all, or those it names."""
    model = make_model('FCN', 8)
    see(model, 4)
    cfg = dict(config=model, checkpoint='random')
    if rng.random() < 0.4:
        see(model, 1)
        cfg['channels'] = rng.choice([[], [3], [-4], [0, 1], 'r', 1, [0.5]])
    take_teacher(rng, case, cfg)
    return f'teacher.channels = {cfg.get("channels")!r}', 'channels'


@mutation
def teacher_checkpoint(rng, case):
    folder = case.files['']
    model = make_model('FCN', 8)
    path = f'{folder}/bad.pth'
    kind, value = rng.choice([
        ('none', None), ('missing', f'{folder}/nothing.pth'), ('', ''),
        ('folder', folder), ('number', 5), ('list', []), ('flag', True),
        ('dict', {}), ('unknown folder', '/no/such/folder/a.pth'),
        ('file', b''), ('file', b'no checkpoint'), ('file', b'PK\x03\x04xx'),
        ('torch', 5), ('torch', []), ('torch', {}), ('torch', None),
        ('torch', torch.zeros(3)), ('torch', dict(state_dict=None)),
        ('torch', dict(state_dict=[])), ('torch', dict(state_dict={})),
        ('torch', {1: torch.zeros(1)}), ('torch', dict(meta={})),
        ('torch', dict(state_dict=dict(a=5))),
        ('weights', make_model('FCN', 4)),
        ('weights', make_model('PSPNet', 8)),
        ('weights', make_model('FCN', 8, 5)),
        ('numbers', model), ('meta', model), ('classes', model)])
    if kind in ('file', 'torch', 'weights', 'numbers', 'meta', 'classes'):
        case.files[path] = value if kind == 'file' else (kind, value)
        kind, value = f'{kind} {str(value)[:60]}', path
    take_teacher(rng, case, dict(config=model, checkpoint=value))
    if kind.startswith(('meta', 'classes')):
        case.expected = 'either'  # what is beside the weights is a comment
    return f'teacher.checkpoint: {kind}: {value}', 'checkpoint'


again(teacher_checkpoint)


@mutation
def no_teacher_checkpoint(rng, case):
    take_teacher(rng, case, dict(config=make_model('FCN', 8)))
    return 'no checkpoint', 'checkpoint'


@mutation
def inherit(rng, case):
    if case.head in ('SegFormer', 'Segmenter', 'Binary'):
        return None
    value = rng.choice([
        5, True, nan, [5], {}, 'nothing', 'decode_hed', '', ['backbone', 5],
        'auxiliary_head', 'nobody:backbone', 'backbone', ['backbone.layer1'],
        'backbone[0]', 'logits', dict(student='backbone'), 0])
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random'))
    case.hook['inherit'] = value
    return f'inherit = {value!r}', 'inherit'


@mutation
def inherit_from_itself(rng, case):
    take_teacher(rng, case, dict(type=rng.choice(
        ['EMATeacher', 'StudentAsTeacher', 'SelfTeacher'])))
    case.hook['inherit'] = rng.choice(['backbone', 'decode_head'])
    return f'inherit = {case.hook["inherit"]!r} without a pretrained one', (
        'inherit')


@mutation
def inherit_from_one_of_two(rng, case):
    """With several teachers 'name:module'."""
    frozen = dict(config=make_model('FCN', case.width), checkpoint='random')
    take_teacher(rng, case, dict(a=frozen, b=copy.deepcopy(frozen)))
    case.hook['losses']['loss_x']['source'] = dict(
        student='backbone[1]', teacher='a:features')
    if case.head in ('SegFormer', 'Segmenter'):
        return None
    case.hook['inherit'] = 'backbone'
    return 'one of two teachers to inherit from', 'inherit'


@mutation
def odd_teacher_name(rng, case):
    """No rule for names is documented: both is right, but no traceback."""
    name = rng.choice(['a.b', '', 'a b', 1, None, 'items', 'loss_x', 'type_',
                       'forward', 'teacher', 'distill', 'a/b', 'training'])
    taught = rng.choice([
        dict(config=make_model('FCN', 8), checkpoint='random'),
        dict(type='SelfTeacher'), dict(type='EMATeacher')])
    take_teacher(rng, case)
    case.hook['teacher'] = {
        name: taught, 'other': dict(type='StudentAsTeacher')}
    case.hook['losses'] = dict(
        loss_x=dict(type='NFDLoss', source=dict(
            student='backbone[1]', teacher=f'{name}:features')),
        loss_y=dict(type='ATLoss', source=dict(
            student='backbone[1]', teacher='other:backbone[2]')))
    case.expected = 'either'
    return f'a teacher called {name!r}: {taught.get("type")}', ''


@mutation
def unused_teacher(rng, case):
    """Right or wrong in itself: no loss looks at it."""
    frozen = dict(config=make_model('FCN', 8), checkpoint='random')
    take_teacher(rng, case, dict(a=frozen, b=rng.choice([
        copy.deepcopy(frozen), dict(type='SelfTeacher'), dict(type='Own'),
        dict(config='nowhere.py', checkpoint='random')])))
    case.hook['losses']['loss_x']['source'] = dict(
        student='backbone[1]', teacher='a:features')
    return 'a teacher that no loss looks at', 'teacher.b'
