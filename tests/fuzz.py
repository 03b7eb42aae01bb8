"""Fuzzes configs: valid ones must train, others must end in our error.

Case number N of a seed depends on nothing but the two. A valid one composes
student, hook, teachers, sources, losses, schedules, optimizer and loop as the
documentation allows; it has to make its steps with finite values, to leave
the model clean and to save a stock checkpoint. An invalid one is a valid one
with one thing spoilt; it has to end in a ConfigError before the first
iteration that names what was spoilt. The mutations take turns.

Models and data are those of the tests, so this needs a clone.
"""
import argparse
import copy
import math
import pprint
import random
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS

import mmselfkd
from mmselfkd import ConfigError, DistillHook

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS / 'test_hooks')]
import test_presets  # noqa: E402
import tiny_runs  # noqa: E402

STEPS = 2
CLASSES = 7
HEADS = (*test_presets.HEADS, 'Auxiliary', 'Binary')
MULTI = ('backbone', 'neck', 'neck.layers.0')  # several levels each


# -- what there is to choose from --------------------------------------------

# kind of argument -> legal values, values that are not
KINDS: dict[str, tuple[list, list]] = dict(
    positive=([0.5, 1, 2.0, 1e-3, 100], [
        0, 0., -1, -0.5, nan, inf, -inf, '1', None, True, [], {}, [1.],
        1e30, 1e-45, 10**400]),
    not_negative=([0, 0.0, 0.5, 3], [
        -1, -0.5, nan, inf, '1', None, True, [], {}, 1e30, 10**400]),
    whole=([1, 2, 5], [0, -1, 1.5, 2., '2', None, True, nan, [], {}]),
    begin=([0, 1, 3], [-1, 0.5, 1., '1', None, True, nan, [], {}]),
    count=([None, 1, 2, 3], [0, -1, 1.5, 2., '2', True, nan, [], {}]),
    reach=([None, 0, 1, 9], [-1, 1.5, '2', True, nan, [], {}]),
    integer=([None, 255, 0, -100], [1.5, 255., '255', True, nan, [], {}]),
    flag=([True, False], [None, 'yes', '', 2, 0.5, nan, [], {}]),
    power=([1, 2, 1.5, 8.], [
        0, 0.9, -2, nan, inf, '2', None, True, [], {}, 10**400]),
    momentum=([0.001, 0.1, 0.5], [
        0, 0., -0.1, 0.6, 0.999, 1, 1., nan, inf, '0.1', None, True, [], {}]),
    alpha=([0.2, 1, 5.0], [0, 0., -1, nan, inf, 'x', None, True, [], {}]),
    mode=(['wgan-gp', 'hinge'], ['wgan', 'Hinge', None, 5, True, [], {}]),
    pool_mode=(['avg', 'max'], ['mean', 'AVG', None, 1, True, [], {}]),
    dims=(['hw', 'nhw', 'c', 'chw'], ['wh', '', None, 2, True, [2, 3], {}]),
    reduction=(['mean', 'sum'], ['none', None, 1, True, [], {}]),
    optimizer=([
        None, dict(type='Adam', lr=1e-4), dict(type='SGD', lr=1e-3)
    ], [
        5, 'SGD', [], {}, True, nan, dict(lr=0.1), dict(type='SDG', lr=0.1),
        dict(type=None, lr=0.1), dict(type='SGD', lr=-1.),
        dict(type='SGD', lr='x'), dict(type='SGD', lr=nan),
        dict(type='Adam', lr=inf), dict(type='SGD', lr=0.1, momentm=0.9),
        dict(type='Adam', betas=5), dict(type='LBFGS')]),
    adjust=([
        None, dict(type='ProbabilityShift'), dict(type='LabelSmoothing'),
        dict(type='LabelSmoothing', correct=1)
    ], [
        5, 'ProbabilityShift', [], {}, True, nan, dict(type='Shift'),
        dict(type=None), dict(correct=0.9),
        dict(type='ProbabilityShift', correct=0.9),
        dict(type='LabelSmoothing', correct=0),
        dict(type='LabelSmoothing', correct=1.5),
        dict(type='LabelSmoothing', correct=nan),
        dict(type='LabelSmoothing', correct=None)]),
    dynamic=([
        None, dict(type='FLSW', minimum=1e-3, gamma=0.5),
        dict(type='CWSM', minimum=1e-3, beta=0, mean='image')
    ], [
        5, 'FLSW', [], {}, True, nan, dict(type='FLS'), dict(type=None),
        dict(beta=1.), dict(type='CWSM', gamma=1.),
        dict(type='FLSW', gamma=-1.), dict(type='FLSW', beta=nan),
        dict(type='FLSW', minimum=0), dict(type='CWSM', minimum=1000),
        dict(type='CWSM', mean='pixel'), dict(type='CWSM', beta='1')]),
    precision=([None, 'fp16', 'bf16'], [
        'fp32', 'half', 16, True, nan, [], ['fp16'], {}]),
    compile=([False, dict(backend='eager'), dict(
        backend='eager', dynamic=False)], [
        None, 'yes', 1, nan, [], ['eager'], dict(backend='egaer'),
        dict(backend=5), dict(mode='fast'), dict(options=dict(x=1)),
        dict(model=1), dict(bakend='eager')]),
    unavailable=([False], [None, 'yes', 1, nan, [], {}, True]))
# the square of divergences that grow like 1 / temperature: no run bears 1e-3
KINDS['mild'] = ([0.5, 1, 2.0, 100], KINDS['positive'][1])
LOSSES: dict[str, dict[str, str]] = dict(
    KDLoss=dict(
        temperature='positive', ignore_index='integer', adjust='adjust',
        dynamic_temperature='dynamic'),
    ICSDLoss=dict(temperature='mild'),
    HolisticLoss=dict(
        mode='mode', conditional='flag', gradient_penalty='not_negative',
        optimizer='optimizer'),
    PairwiseLoss=dict(
        pool='count', pool_mode='pool_mode', connection_range='reach'),
    NFDLoss=dict(dims='dims', eps='positive'),
    ATLoss=dict(p='power', reduction='reduction'),
    TFDInterLoss={},
    TFDIntraLoss={},
    MixSKDFeatureLoss={},
    MixSKDLogitLoss=dict(temperature='positive', ignore_index='integer'),
    MixSKDAdversarialLoss=dict(hidden='whole', optimizer='optimizer'))
TEACHERS: dict[str, dict[str, str]] = dict(
    EMATeacher=dict(momentum='momentum', begin='begin', interval='whole'),
    SnapshotTeacher=dict(interval='whole', by_epoch='flag'),
    MixTeacher=dict(alpha='alpha'))
EXECUTION = dict(precision='precision', channels_last='flag',
                 compile='compile', side_stream='unavailable')  # on a CPU
TIMES = [-1, 1.5, '1', True, nan, inf, [], {}, -0.5]
BAD_SCHEDULES = dict(
    LinearRamp=dict(
        begin=[*TIMES, None], end=[*TIMES, 0],
        start_factor=KINDS['not_negative'][1],
        end_factor=KINDS['not_negative'][1], by_epoch=KINDS['flag'][1]),
    ExponentialRamp=dict(
        begin=[*TIMES, None], end=[*TIMES, 0], rate=KINDS['positive'][1],
        by_epoch=KINDS['flag'][1]),
    Step=dict(
        milestones=[[], 5, None, 'x', [0], [1, 1], [2, 1], [1.5], ['1'],
                    [True], [None], {}],
        gamma=KINDS['not_negative'][1], by_epoch=KINDS['flag'][1]),
    Stop=dict(end=[*TIMES, 0, None, 0.5], by_epoch=KINDS['flag'][1]))
BAD_SCHEDULES['CosineRamp'] = BAD_SCHEDULES['LinearRamp']
METHODS = ('SKDHook', 'NFDHook', 'ICSDHook', 'AICSDHook', 'KADTDHook',
           'FRSKDHook', 'MixSKDHook', 'TFDHook')


def some(rng, arguments: dict[str, str]) -> dict[str, Any]:
    """Legal values for about half of the arguments."""
    return {name: copy.deepcopy(rng.choice(KINDS[kind][0]))
            for name, kind in arguments.items() if rng.random() < 0.5}


# -- models and the sources in them ------------------------------------------


@dataclass
class Places:
    """Sources of one owner, by what they give.

    Attributes:
        maps (list[str]): One level of features each.
        many (list[str]): Four levels of features each.
        scores (list[str]): One level of class scores each.
    """
    maps: list[str]
    many: list[str]
    scores: list[str]


INNER = dict(
    PSPNet='decode_head.bottleneck', FCN='decode_head.convs.0',
    DeepLabV3='decode_head.bottleneck',
    DeepLabV3Plus='decode_head.sep_bottleneck',
    UPerNet='decode_head.fpn_bottleneck', FPN='decode_head.scale_heads.0',
    OCR='decode_head.1.bottleneck', SegFormer='decode_head.fusion_conv',
    Auxiliary='decode_head.convs.0', Binary='decode_head.convs')


def make_model(head: str, width: int, classes: int = CLASSES) -> dict:
    if head not in ('Auxiliary', 'Binary'):
        model = test_presets.model(tiny_runs, head, width)
        for one in heads_of(model):
            one['num_classes'] = classes
        return copy.deepcopy(model)
    model = copy.deepcopy(tiny_runs.model(width, classes))
    if head == 'Binary':
        for one in (model['decode_head'], model['auxiliary_head']):
            one.update(
                num_classes=2, out_channels=1, threshold=0.3,
                loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    return model


def heads_of(model: dict) -> list[dict]:
    head = model['decode_head']
    return head if isinstance(head, list) else [head]


def places_of(head: str) -> Places:
    """Sources that a model has, as student and as teacher."""
    maps = ['features', INNER[head]]
    maps += [f'backbone[{i}]' for i in range(-4, 4)]
    many = ['backbone']
    if head != 'SegFormer':
        maps += ['backbone.stem', 'backbone.maxpool', 'backbone.layer1',
                 'backbone.layer4.1', 'backbone.layer2.0.relu[1]',
                 'backbone.layer3.1.relu[-2]', 'backbone.layer3.0.conv2']
    if head == 'FPN':
        maps += ['neck[0]', 'neck[-1]', 'neck.fpn_convs.2',
                 'neck.lateral_convs.1.conv']
        many += ['neck']
    last = 'decode_head.1' if head == 'OCR' else 'decode_head'
    return Places(maps, many, ['logits', f'{last}.conv_seg'])


# -- a case ------------------------------------------------------------------


@dataclass
class Taught:
    """A teacher of a case: its config and its sources.

    Attributes:
        like (bool): Its maps have the shapes of the student's.
        head (str): Of a pretrained one of the student's classes.
    """
    cfg: dict | None
    places: Places
    like: bool = False
    head: str = ''


@dataclass
class Case:
    """A config and what is to be expected of it.

    Attributes:
        label (str): ``valid-N`` or ``invalid-N``, for ``--only``.
        cfg (dict): The whole config.
        hook (dict): The hook in it.
        files (dict): Path -> what is to be in it.
        bf16 (bool): Train under autocast.
        what (str): What was spoilt.
        says (str): What the error has to name.
        expected (str): 'train', 'error' or, where the documentation leaves
            it open, 'either'.
    """
    label: str
    head: str
    places: Places
    width: int = 4
    batch: int = 2
    lengths: tuple[int, int] = (STEPS, 1)
    cfg: dict = field(default_factory=dict)
    hook: dict = field(default_factory=dict)
    teachers: dict[str, Taught] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False
    what: str = ''
    says: str = ''
    expected: str = 'train'

    @property
    def terms(self) -> dict[str, tuple[dict, dict]]:
        """Key -> the entry that the user writes, and the merged one."""
        preset = getattr(mmselfkd, self.hook['type'].split('.')[1]).preset
        losses = self.hook.setdefault('losses', {})
        result = {}
        for key in [*preset, *(k for k in losses if k not in preset)]:
            if losses.get(key, {}) is not None:
                entry = losses.setdefault(key, {})
                result[key] = entry, copy.deepcopy(
                    {**preset.get(key, {}), **entry})
        return result


def make_schedule(rng, lengths: tuple[int, int]) -> dict:
    """A schedule that lies within the run."""
    by_epoch = rng.random() < 0.4
    length = lengths[by_epoch]
    kinds = ['LinearRamp', 'CosineRamp', 'ExponentialRamp', 'Stop']
    kind = rng.choice(kinds + ['Step'] if length > 1 else kinds)
    cfg = dict(type=kind)
    if by_epoch or rng.random() < 0.2:
        cfg['by_epoch'] = by_epoch
    if kind == 'Stop':
        return dict(cfg, end=rng.randint(1, length))
    if kind == 'Step':
        return dict(cfg, milestones=[rng.randint(1, length - 1)],
                    **some(rng, dict(gamma='not_negative')))
    begin, end = rng.randint(0, length - 1), None
    if rng.random() < 0.4:  # shares: both, or the other one open
        begin, end = rng.choice(
            [(0.3, None), (0.25, 0.75), (2 / 3, None), (0, 1 / 12)])
    elif rng.random() < 0.5:
        end = rng.randint(begin + 1, length)
    for name, value, default in (('begin', begin, 0), ('end', end, None)):
        if value != default or rng.random() < 0.3:
            cfg[name] = value
    if kind == 'ExponentialRamp':
        return dict(cfg, **some(rng, dict(rate='positive')))
    return dict(cfg, **some(rng, dict(
        start_factor='not_negative', end_factor='not_negative')))


def make_teacher(rng, case: Case, kind: str, folder: str) -> Taught:
    if kind == 'own':
        return Taught(dict(type='OwnTeacher'), case.places, like=True)
    if kind == 'ema':
        return Taught(dict(type='EMATeacher', **some(
            rng, TEACHERS['EMATeacher'])), case.places, like=True)
    if kind == 'snapshot':
        return Taught(dict(type='SnapshotTeacher', **dict(
            some(rng, TEACHERS['SnapshotTeacher']),
            interval=rng.choice([1, 2]))), case.places, like=True)
    if kind == 'self':
        return make_self_teacher(rng, case)
    if kind == 'mix':
        cfg = dict(type='MixTeacher', **some(rng, TEACHERS['MixTeacher']))
        if case.head == 'FPN' and rng.random() < 0.3:
            cfg['source'] = 'neck'
        return Taught(cfg, Places(
            [f'{view}.{name}' for view in ('interpolated', 'mixed')
             for name in ('logits', 'aggregated')],
            [f'{view}.features' for view in ('interpolated', 'mixed')],
            [] if case.head == 'Binary' else
            [f'{view}.{name}' for view in ('interpolated', 'mixed')
             for name in ('logits', 'aggregated')]))
    return make_frozen_teacher(rng, case, folder)


def make_frozen_teacher(rng, case: Case, folder: str) -> Taught:
    head = rng.choice(
        [case.head, 'Auxiliary', *HEADS]) if case.head != 'Binary' else (
            rng.choice(['Binary', 'FCN']))
    classes = CLASSES if rng.random() < 0.85 else 5
    model = make_model(head, rng.choice([4, 8, 12, 16]), classes)
    if rng.random() < 0.3:
        model['data_preprocessor'].update(rng.choice([
            dict(mean=[127.5] * 3, std=[127.5] * 3), dict(bgr_to_rgb=False),
            dict(mean=None, std=None)]))
    full: Any = dict(model=model, default_scope='mmseg')
    form = rng.random()
    if form < 0.2:
        full = model
    elif form < 0.4:
        path = f'{folder}/teacher{len(case.files)}.py'
        case.files[path] = pprint.pformat(model, sort_dicts=False).join(
            ["default_scope = 'mmseg'\nmodel = ", '\n'])
        full = path
    cfg = dict(config=full, checkpoint='random')
    if rng.random() < 0.5:
        cfg['checkpoint'] = f'{folder}/teacher{len(case.files)}.pth'
        case.files[cfg['checkpoint']] = ('weights', model)
    if rng.random() < 0.2:
        cfg['type'] = 'FrozenTeacher'
    if rng.random() < 0.2:
        cfg.update(some(rng, EXECUTION))
    places = places_of(head)
    if classes != CLASSES and head != 'Binary' or (
            case.head == 'Binary') != (head == 'Binary'):
        places.scores = []
    return Taught(cfg, places, head=head if places.scores else '')


def make_self_teacher(rng, case: Case) -> Taught:
    cfg: dict[str, Any] = dict(type='SelfTeacher')
    source = rng.choice([
        None, None, 'backbone', ['backbone[1]', 'backbone[3]'],
        'neck' if case.head == 'FPN' else None])
    if source is not None:
        cfg['source'] = source
    levels = len(source) if isinstance(source, list) else 4
    neck = some(rng, dict(weighted='flag', num_layers='whole'))
    if rng.random() < 0.3:
        neck['num_convs'] = 2
    if rng.random() < 0.3:
        neck.update(rng.choice([
            dict(width=0.5), dict(out_channels=6), dict(norm_cfg=None),
            dict(out_channels=list(range(5, 5 + levels))),
            dict(norm_cfg=dict(type='GN', num_groups=1))]))
    if rng.random() < 0.3:
        neck['last'] = 'top_down'
    if neck or rng.random() < 0.3:
        cfg['neck'] = dict(neck, type='BiFPN')
    maps = ['features', 'decode_head.convs.0', *(
        f'neck[{i}]' for i in range(-levels, levels))]
    if neck.get('last') == 'top_down' and rng.random() < 0.5:
        cfg['head'] = dict(type='FCNHead', in_index=0, num_convs=1)
    elif rng.random() < 0.5:
        cfg['head'] = dict(type='SegformerHead', **rng.choice([
            {}, dict(dropout_ratio=0.), dict(channels=6),
            dict(loss_decode=dict(type='CrossEntropyLoss',
                                  use_sigmoid=case.head == 'Binary'))]))
    return Taught(cfg, Places(
        maps, ['neck', 'neck.layers.0'] if levels == 4 else [],
        ['logits', 'decode_head.conv_seg']))


def make_term(rng, case: Case) -> dict:
    """A loss between the student and one of the teachers."""
    name = rng.choice(list(case.teachers))
    taught = case.teachers[name]
    kinds = ['PairwiseLoss', 'ATLoss', 'NFDLoss']
    if taught.places.scores:
        kinds += ['HolisticLoss'] if case.head == 'Binary' else [
            'KDLoss', 'KDLoss', 'ICSDLoss', 'HolisticLoss', 'MixSKDLogitLoss']
    if taught.places.many:
        kinds += ['TFDInterLoss']
    if taught.like:
        kinds += ['TFDIntraLoss', 'MixSKDFeatureLoss',
                  'MixSKDAdversarialLoss']
    is_mix = (taught.cfg or {}).get('type') == 'MixTeacher'
    if is_mix:
        kinds += ['MixSKDFeatureLoss', 'MixSKDAdversarialLoss']
    kind = rng.choice(kinds)
    if is_mix:
        student, teacher = _mixed_sources(rng, case, name, kind)
    else:
        student, teacher = _sources(rng, case, taught, kind)
    cfg = dict(type=kind, **some(rng, LOSSES[kind]))
    if cfg.get('dynamic_temperature') and cfg.get('temperature') == 1e-3:
        del cfg['temperature']
    if len(case.teachers) > 1 or rng.random() < 0.15:
        teacher = [f'{name}:{s}' for s in teacher]
    student, teacher = (x[0] if len(x) == 1 and rng.random() < 0.8 else x
                        for x in (student, teacher))
    cfg['source'] = student if student == teacher and rng.random(
    ) < 0.7 else dict(student=student, teacher=teacher)
    if rng.random() < 0.6:
        cfg['loss_weight'] = rng.choice([0.1, 1, 2.5, 1e-6])
    if rng.random() < 0.4:
        cfg['schedule'] = make_schedule(rng, case.lengths)
    return cfg


def _sources(rng, case: Case, taught: Taught, kind: str
             ) -> tuple[list[str], list[str]]:
    """What student and teacher look at, as lists of equal levels."""
    ours, theirs = case.places, taught.places
    if kind in ('KDLoss', 'ICSDLoss', 'HolisticLoss', 'MixSKDLogitLoss'):
        count = rng.choice([1, 1, 1, 2])
        student = rng.choices(ours.scores, k=count)
        if rng.random() < 0.2 and case.head in ('Auxiliary', 'OCR'):
            student[0] = dict(  # a head in a cascade runs twice
                Auxiliary='auxiliary_head.conv_seg',
                OCR='decode_head.0.conv_seg[1]')[case.head]
        elif rng.random() < 0.3 and 'logits' in theirs.scores:
            return ['logits'] * count, ['logits'] * count
        return student, rng.choices(theirs.scores, k=count)
    if kind in ('TFDIntraLoss', 'MixSKDFeatureLoss', 'MixSKDAdversarialLoss'):
        both = rng.choice([[rng.choice(ours.maps)], [rng.choice(ours.many)]])
        return both, list(both)
    count = rng.choice([1, 1, 1, 2, 4])
    if kind == 'TFDInterLoss' or count == 4 and theirs.many:
        student = [rng.choice(ours.many)]
        if rng.random() < 0.3:
            student = rng.choices(ours.maps, k=4)
        return student, [rng.choice(theirs.many)]
    student = rng.choices(ours.maps, k=count)
    if set(student) <= set(theirs.maps) and rng.random() < 0.5:
        return student, list(student)
    return student, rng.choices(theirs.maps, k=count)


def _mixed_sources(rng, case: Case, name: str, kind: str
                   ) -> tuple[list[str], list[str]]:
    pairs = ['features', 'branches', 'logits', 'aggregated']
    if kind in ('KDLoss', 'ICSDLoss', 'HolisticLoss', 'MixSKDLogitLoss'):
        pairs = pairs[1:]
    if kind == 'TFDInterLoss':
        pairs = pairs[:1]
    one = rng.choice(pairs)
    return [f'{name}:interpolated.{one}'], [f'mixed.{one}']


def make_base(rng, label: str, folder: str, only: str = '') -> Case:
    """A valid case; ``only`` names the hook."""
    head = rng.choice(HEADS)
    case = Case(label, head, places_of(head), batch=rng.choice([2, 2, 2, 3]))
    model = make_model(head, case.width)
    by_epoch = rng.random() < 0.3
    if by_epoch:
        epochs = rng.choice([1, 2])
        length = case.batch * STEPS // epochs
        if epochs == 1 and head in ('Auxiliary', 'FCN', 'Binary'):
            length -= rng.choice([0, case.batch - 1])  # a last batch of one
        case.lengths = STEPS, epochs
    else:
        length = rng.choice([2, 3, 4, 8])
        case.lengths = STEPS, -(-STEPS // -(-length // case.batch))
    _vary(rng, head, model)
    name = only or rng.choice(['DistillHook'] * 8 + [*METHODS])
    if head == 'Binary' and name in ('KADTDHook', 'MixSKDHook'):
        name = 'NFDHook'
    case.hook = make_hook(rng, case, name, folder)
    case.cfg = make_config(rng, case, model, by_epoch, length)
    case.bf16 = rng.random() < 0.15
    if case.bf16:
        case.cfg['optim_wrapper']['type'] = 'BFloat16OptimWrapper'
    return case


def _vary(rng, head: str, model: dict) -> None:
    """Options of the student that no loss needs to know."""
    last = heads_of(model)[-1]
    if head != 'SegFormer':
        model['backbone'].update(rng.choice([
            {}, {}, dict(with_cp=True), dict(frozen_stages=1),
            dict(norm_eval=True)]))
    if head in ('FCN', 'Auxiliary', 'PSPNet') and rng.random() < 0.2:
        last['norm_cfg'] = None
    if head != 'Binary' and rng.random() < 0.15:
        last['sampler'] = dict(
            type='OHEMPixelSampler', thresh=0.7, min_kept=50)
    if head not in ('Binary', 'OCR') and rng.random() < 0.15:
        last['loss_decode'] = [
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(type='DiceLoss', loss_name='loss_dice', loss_weight=0.5)]
        last.pop('sampler', None)
    last['dropout_ratio'] = rng.choice([0., 0.1, 0.5])


def make_hook(rng, case: Case, name: str, folder: str) -> dict:
    hook: dict[str, Any] = dict(type=f'mmselfkd.{name}')
    if name == 'DistillHook':
        kinds = ['frozen', 'frozen', 'frozen', 'ema', 'snapshot', 'self',
                 'mix', 'own']
        named = rng.random() < 0.35
        names = rng.sample(['a', 'big', 'teacher', 'me_2', 'T'],
                           rng.choice([1, 2, 2, 3])) if named else ['teacher']
        for one in names:
            case.teachers[one] = make_teacher(
                rng, case, rng.choice(kinds), folder)
        keys = rng.sample(['loss_a', 'my_loss', 'loss', 'lossB2'],
                          rng.choice([1, 1, 2, 3]))
        hook['losses'] = {key: make_term(rng, case) for key in keys}
        if len(names) > 1:  # one that no loss looks at is a mistake
            sources = repr(hook['losses'])
            case.teachers = {one: taught for one, taught in
                             case.teachers.items() if f"'{one}:" in sources}
        hook['teacher'] = {
            one: taught.cfg for one, taught in case.teachers.items()
        } if named else case.teachers['teacher'].cfg
    else:
        _fill_method(rng, case, hook, name, folder)
    if rng.random() < 0.2:
        hook['task_schedule'] = make_schedule(rng, case.lengths)
    givers = [one for one, taught in case.teachers.items()
              if taught.head == case.head]
    if givers and rng.random() < 0.5:  # its last biases fit at least
        one = rng.choice(givers)
        inherit = one + ':decode_head' if len(case.teachers) > 1 else (
            'decode_head')
        hook['inherit'] = inherit if rng.random() < 0.5 else [inherit]
    return hook


def _fill_method(rng, case: Case, hook: dict, name: str, folder: str) -> None:
    """Teacher and overrides of a method hook."""
    own = dict(KADTDHook='ema', FRSKDHook='self', MixSKDHook='mix',
               TFDHook='own')
    kinds = dict(
        KADTDHook=['ema', 'frozen', 'snapshot', 'self'], FRSKDHook=['self'],
        MixSKDHook=['mix'], TFDHook=['own', 'ema']).get(
            name, ['frozen', 'frozen', 'frozen', 'ema', 'snapshot', 'self'])
    while True:
        taught = make_teacher(rng, case, rng.choice(kinds), folder)
        if name in ('NFDHook', 'TFDHook', 'MixSKDHook') or (
                taught.places.scores):
            break
    if name not in own or rng.random() < 0.6:
        hook['teacher'] = taught.cfg
    else:
        taught = make_teacher(rng, case, own[name], folder)
        taught.cfg = None
        if name == 'FRSKDHook':
            taught.places.many = ['neck']
    case.teachers['teacher'] = taught
    preset = getattr(mmselfkd, name).preset
    losses: dict[str, dict | None] = {}
    for key, cfg in preset.items():
        if rng.random() < 0.5:
            arguments = dict(LOSSES[cfg['type']])
            arguments.pop('dynamic_temperature', None)
            losses[key] = some(rng, arguments)
            if name == 'KADTDHook':  # not below the minimum
                losses[key]['temperature'] = rng.choice([1, 2.0, 4.0])
            if rng.random() < 0.4:
                losses[key]['loss_weight'] = rng.choice([0.5, 1, 2.0])
            if rng.random() < 0.4:
                losses[key]['schedule'] = rng.choice(
                    [None, make_schedule(rng, case.lengths)])
        elif rng.random() < 0.2 and sum(
                losses.get(k, {}) is not None for k in preset) > 1:
            losses[key] = None
    if case.head == 'Binary':  # one channel has no softmax
        for key, cfg in preset.items():
            if cfg['type'] in ('KDLoss', 'ICSDLoss'):
                losses[key] = None
    if rng.random() < 0.3 or all(
            losses.get(k, {}) is None for k in preset):
        losses['loss_more'] = make_term(rng, case)
    if losses or rng.random() < 0.3:
        hook['losses'] = losses


def make_config(rng, case: Case, model: dict, by_epoch: bool,
                length: int) -> dict:
    """The whole config around the hook."""
    hooks = [case.hook]
    if rng.random() < 0.1:
        hooks.append(dict(
            type='DistillHook', teacher=dict(type='EMATeacher'), losses=dict(
                loss_second=dict(type='ATLoss', source='backbone[0]'))))
    if rng.random() < 0.3:
        hooks.append(dict(type='EMAHook', momentum=0.1))
        if rng.random() < 0.3:
            hooks.reverse()  # the priority decides
    cfg = tiny_runs.config(
        'work_dir', iters=case.lengths[by_epoch], by_epoch=by_epoch).to_dict()
    cfg.update(custom_hooks=hooks, model=model, log_level='ERROR')
    if by_epoch:
        cfg['train_cfg']['val_interval'] = rng.choice([1, 1000, 1000])
    height, width = rng.choice([(32, 32), (32, 32), (33, 33), (37, 37),
                                (48, 32), (33, 47)])
    model['data_preprocessor']['size'] = (height, width)
    loader = cfg['train_dataloader']
    loader['batch_size'] = case.batch
    loader['dataset'].update(
        size=height, length=length, serialize_data=False)
    pipeline = loader['dataset']['pipeline']
    if height != width:
        pipeline.insert(2, dict(
            type='Resize', scale=(width, height), keep_ratio=False))
    if case.head == 'Binary':
        pipeline.insert(2, dict(type='BinaryLabels'))
    pipeline[2:2] = rng.choice([
        [], [], [], [dict(type='IgnoreAllLabels')],
        [dict(type='mmselfkd.KeepLabels', one_in=2)]])
    cfg['val_dataloader']['dataset'].update(
        size=height, length=2, serialize_data=False)
    wrapper = cfg['optim_wrapper']
    wrapper['optimizer']['weight_decay'] = 5e-4
    if rng.random() < 0.4:
        wrapper['optimizer'] = rng.choice([
            dict(type='AdamW', lr=1e-3, weight_decay=0.01),
            dict(type='Adam', lr=1e-3, weight_decay=0.),
            dict(type='SGD', lr=0.1, weight_decay=0.)])
    if rng.random() < 0.3:
        wrapper['paramwise_cfg'] = rng.choice([
            dict(norm_decay_mult=0., bias_decay_mult=0.),
            dict(custom_keys={'head': dict(lr_mult=10.)}),
            dict(bias_lr_mult=2., bypass_duplicate=True)])
    if rng.random() < 0.3:
        wrapper['clip_grad'] = dict(max_norm=1.)
    if rng.random() < 0.3:
        wrapper['accumulative_counts'] = 2
    if rng.random() < 0.3:
        cfg['param_scheduler'] = rng.choice([None, [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2)]])
    return cfg


# -- mutations ---------------------------------------------------------------

MUTATIONS = []


def mutation(function):
    """Registers what spoils a case in place and says what it spoilt.

    It returns ``(what, says)``, or None where it does not apply.
    """
    MUTATIONS.append(function)
    return function


def misspelt(rng, name: str) -> str:
    place = rng.randrange(len(name))
    return rng.choice([name[:place] + name[place + 1:],
                       name[:place] + 'q' + name[place:]])


def pick_term(rng, case: Case, *arguments: str):
    """Key, entry and merged entry of a term that has the arguments."""
    terms = [(key, *pair) for key, pair in case.terms.items()
             if all(a in LOSSES[pair[1]['type']] for a in arguments)]
    return rng.choice(terms) if terms else None


@mutation
def hook_argument(rng, case):
    name = rng.choice(['teachr', 'looses', 'schedule', 'weight', 'task',
                       'teachers', 'loss', 'source'])
    case.hook[name] = rng.choice([1, None, {}, 'x'])
    return f'{name} = {case.hook[name]!r}', name


@mutation
def wrong_teacher(rng, case):
    case.hook['teacher'] = rng.choice([
        {}, [], 'EMATeacher', 5, True, nan, 0, '', False,
        [dict(type='EMATeacher')], dict(a=5), dict(a={}), dict(type=None),
        dict(type=5), dict(type=[]), dict(type='teacher'),
        dict(checkpoint='random'), dict(a=None, b=dict(type='EMATeacher')),
        {1: 2}])
    return f'teacher = {case.hook["teacher"]!r}', 'teacher'


@mutation
def no_teacher(rng, case):
    if getattr(mmselfkd, case.hook['type'][9:]).preset_teacher:
        return None
    case.hook['teacher'] = None
    if rng.random() < 0.5:
        del case.hook['teacher']
    return 'no teacher', 'teacher'


@mutation
def wrong_losses(rng, case):
    bad = [[], 'KDLoss', 5, True, nan, [dict(type='KDLoss')], 0, '', False]
    if case.hook['type'].endswith('DistillHook'):
        bad += [{}, None]
    case.hook['losses'] = rng.choice(bad)
    return f'losses = {case.hook["losses"]!r}', 'losses'


@mutation
def nothing_left(rng, case):
    if case.hook['type'].endswith('DistillHook'):
        return None
    preset = getattr(mmselfkd, case.hook['type'][9:]).preset
    case.hook['losses'] = dict.fromkeys(preset)
    return 'every loss of the preset None', 'losses'


@mutation
def loss_key(rng, case):
    key, entry, full = pick_term(rng, case)
    new = rng.choice(['kd', 'loss.kd', '1loss', 'loss kd', '', 'Loss',
                      'loss-a', 'los_s', 1, None, 'loss:x'])
    case.hook['losses'][new] = copy.deepcopy(full)
    return f'a loss called {new!r}', str(new)


@mutation
def loss_entry(rng, case):
    key = pick_term(rng, case)[0]
    bad = [5, 'KDLoss', [], True, nan, 0, '', False, [dict(type='KDLoss')]]
    if case.hook['type'].endswith('DistillHook'):
        bad += [None, {}]
    case.hook['losses'][key] = rng.choice(bad)
    return f'losses.{key} = {case.hook["losses"][key]!r}', key


@mutation
def new_loss_without_type(rng, case):
    case.hook.setdefault('losses', {})['loss_new'] = rng.choice([
        dict(source='logits'), dict(loss_weight=1.), dict(schedule=None), {},
        None, dict(type=None, source='logits')])
    return f'loss_new = {case.hook["losses"]["loss_new"]}', 'loss_new'


@mutation
def loss_type(rng, case):
    key, entry, full = pick_term(rng, case)
    entry.clear()
    entry.update(full, type=rng.choice([
        misspelt(rng, full['type']), full['type'].lower(), 5, [], {}, True,
        '', 'ResNet', 'FCNHead', 'mmselfkd.Nothing', 'nowhere.KDLoss',
        'LinearRamp', 'EMATeacher', 'os.path']))
    return f'losses.{key}.type = {entry["type"]!r}', 'type' if not isinstance(
        entry['type'], str) else entry['type']


@mutation
def unknown_argument(rng, case):
    key, entry, full = pick_term(rng, case)
    name = misspelt(rng, rng.choice(
        [*LOSSES[full['type']], 'loss_weight', 'schedule', 'source']))
    entry[name] = 1
    return f'losses.{key}.{name} = 1', name


@mutation
def loss_argument(rng, case):
    key, entry, full = pick_term(rng, case)
    if not LOSSES[full['type']]:
        return None
    name, kind = rng.choice(list(LOSSES[full['type']].items()))
    entry[name] = copy.deepcopy(rng.choice(KINDS[kind][1]))
    if (name, entry[name]) == ('optimizer', {}):
        return None
    return f'losses.{key}.{name} = {entry[name]!r}', name


@mutation
def second_loss_argument(rng, case):
    return loss_argument(rng, case)


@mutation
def third_loss_argument(rng, case):
    return loss_argument(rng, case)


@mutation
def adversarial_optimizer(rng, case):
    picked = pick_term(rng, case, 'optimizer')
    if picked is None:
        return None
    picked[1]['optimizer'] = rng.choice(KINDS['optimizer'][1])
    return f'optimizer = {picked[1]["optimizer"]!r}', 'optimizer'


@mutation
def soft_label_option(rng, case):
    picked = pick_term(rng, case, 'adjust')
    if picked is None:
        return None
    name, kind = rng.choice([('adjust', 'adjust'),
                             ('dynamic_temperature', 'dynamic')])
    picked[1][name] = rng.choice(KINDS[kind][1])
    return f'{name} = {picked[1][name]!r}', name


@mutation
def loss_weight(rng, case):
    key, entry, _ = pick_term(rng, case)
    entry['loss_weight'] = rng.choice(
        [-1, -0.1, nan, inf, '1', None, True, [], {}, [1.], 1e30, 10**400])
    return f'losses.{key}.loss_weight = {entry["loss_weight"]!r}', (
        'loss_weight')


@mutation
def source_type(rng, case):
    key, entry, full = pick_term(rng, case)
    one = 'logits'
    entry['source'] = rng.choice([
        None, 5, [], {}, True, nan, '', [5], [one, None], [[one]], dict(a=one),
        dict(student=one), dict(student=one, teacher=one, other=one),
        dict(student=None, teacher=one), dict(student=one, teacher=[]),
        dict(student=5, teacher=one), dict(student=one, teacher={}),
        dict(student=one, teacher='')])
    return f'losses.{key}.source = {entry["source"]!r}', 'source'


@mutation
def no_source(rng, case):
    key, entry, full = pick_term(rng, case)
    if not case.hook['type'].endswith('DistillHook'):
        key, entry = 'loss_new', {k: v for k, v in full.items()}
        case.hook['losses'][key] = entry
    del entry['source']
    return f'losses.{key} without source', 'source'


def spoil_source(rng, case, spoil, sides=('student', 'teacher')):
    """Put ``spoil(source)`` for one source of one side of one term."""
    key, entry, full = pick_term(rng, case)
    both = full['source']
    if not isinstance(both, dict):
        both = dict(student=both, teacher=copy.deepcopy(both))
        if ':' in str(both['student']):
            return None
    side = rng.choice(sides)
    listed = [both[side]] if isinstance(both[side], str) else list(both[side])
    place = rng.randrange(len(listed))
    old = listed[place]
    listed[place] = spoil(old)
    if listed[place] is None:
        return None
    both[side] = listed[0] if len(listed) == 1 else listed
    entry['source'] = both
    return (f'losses.{key}.source.{side}: {listed[place]!r} in place of '
            f'{old!r}', 'source')


@mutation
def source_misspelt(rng, case):
    def spoil(source):
        name = source.split('[')[0].split('.')[0]
        return misspelt(rng, name) + source[len(name):]
    return spoil_source(rng, case, spoil)


@mutation
def source_syntax(rng, case):
    return spoil_source(rng, case, lambda s: rng.choice([
        f'{s}[', f'{s}[x]', f'{s}[]', f'{s}[1.5]', f'[{s}]', f' {s}',
        f'{s}.', f'.{s}', f'{s}[0', f'{s}]', f'{s}[0]x', s.upper(),
        f'{s}.nothing', f'{s}[0:2]', f'{s},{s}', f'model.{s}', '[0]', '.']))


@mutation
def source_index(rng, case):
    def spoil(source):
        if source.split(':')[-1] in MULTI:
            return source + rng.choice(['[9]', '[-9]'])
        return source + rng.choice(['[0]', '[-1]', '[3]'])
    return spoil_source(rng, case, spoil)


@mutation
def source_does_not_run(rng, case):
    def spoil(source):
        owner = source.rpartition(':')[0]
        return f'{owner}:' * bool(owner) + rng.choice(
            ['decode_head', 'data_preprocessor'])
    return spoil_source(rng, case, spoil)


@mutation
def source_of_no_maps(rng, case):
    if case.head != 'SegFormer':
        return None
    return spoil_source(rng, case, lambda s: None if ':' in s else rng.choice([
        'backbone.layers.0.0', 'backbone.layers.1.1.0',
        'backbone.layers.2.2']), ['student'])


@mutation
def source_of_auxiliary_head(rng, case):
    if case.head != 'Auxiliary':
        return None
    terms = list(case.terms.items())
    key, (entry, _) = next(
        (term for term in terms
         if term[1][1]['type'] != 'MixSKDFeatureLoss'), terms[-1])
    name, taught = rng.choice(list(case.teachers.items()))
    if not isinstance(taught.cfg, dict) or taught.cfg.get(
            'type', 'FrozenTeacher') == 'OwnTeacher':
        return None
    source = f'{name}:auxiliary_head.conv_seg'
    entry['source'] = dict(student='logits', teacher=source)
    return f'losses.{key}.source.teacher = {source!r}', 'source'


@mutation
def unknown_teacher(rng, case):
    def spoil(source):
        return rng.choice(['nobody:', ':', 'teacher :', 'student:', 'a:b:']
                          ) + source.rpartition(':')[2]
    return spoil_source(rng, case, spoil)


@mutation
def no_teacher_named(rng, case):
    if len(case.teachers) < 2:
        return None
    return spoil_source(
        rng, case, lambda s: s.rpartition(':')[2], ['teacher'])


@mutation
def other_classes(rng, case):
    if case.head == 'Binary' or not case.hook['type'].endswith('DistillHook'):
        return None
    model = make_model('FCN', 8, rng.choice([5, 8, 19]))
    take_teacher(rng, case, dict(config=model, checkpoint='random'))
    case.hook['losses'] = {'loss': dict(
        type=rng.choice(['KDLoss', 'ICSDLoss', 'HolisticLoss',
                         'MixSKDLogitLoss']), source='logits')}
    return 'another number of classes', 'loss'


@mutation
def one_channel(rng, case):
    if case.head != 'Binary':
        return None
    take_teacher(rng, case, dict(type='EMATeacher'))
    case.hook['losses'] = {'loss': dict(
        type=rng.choice(['ICSDLoss', 'MixSKDLogitLoss']),
        source='logits')}
    return 'a softmax over one channel', 'loss'


@mutation
def other_channels(rng, case):
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random'))
    case.hook['losses'] = dict(loss_x=dict(
        type=rng.choice(['TFDIntraLoss', 'MixSKDFeatureLoss',
                         'MixSKDAdversarialLoss']),
        source='backbone[2]'))
    return 'a loss that needs equal channels', 'loss_x'


@mutation
def other_levels(rng, case):
    key, entry, full = pick_term(rng, case)
    one = rng.choice(['backbone[2]', ['backbone[3]', 'backbone[0]'],
                      'features', ['backbone', 'features']])
    taught = next(iter(case.teachers.values()))
    if len(case.teachers) > 1 or full['type'] == 'TFDInterLoss' or (
            'backbone' not in taught.places.many):
        return None
    both = ['backbone', one]
    rng.shuffle(both)
    entry['source'] = dict(student=both[0], teacher=both[1])
    return f'losses.{key}.source = {entry["source"]}', 'source'


@mutation
def too_few_levels(rng, case):
    if case.head not in ('FCN', 'Auxiliary') or case.hook['type'][9:] not in (
            'FRSKDHook', 'MixSKDHook', 'TFDHook'):
        return None
    model = case.cfg['model']
    model['backbone']['out_indices'] = (3, )
    model['decode_head']['in_index'] = 0
    model.pop('auxiliary_head', None)
    name = case.hook['type']
    case.hook.clear()
    case.hook['type'] = name
    return f'{name} on a backbone of one level', name[9:]


def put_schedule(rng, case, schedule):
    """As a term's or as the task's schedule."""
    if rng.random() < 0.3:
        case.hook['task_schedule'] = schedule
        return f'task_schedule = {schedule!r}', 'task_schedule'
    key, entry, _ = pick_term(rng, case)
    entry['schedule'] = schedule
    return f'losses.{key}.schedule = {schedule!r}', 'schedule'


@mutation
def schedule_type(rng, case):
    return put_schedule(rng, case, rng.choice([
        5, 'LinearRamp', [], {}, True, nan, 0, '', False, dict(end=2),
        dict(type=None), dict(type=5), dict(type='Ramp'), dict(type=[]),
        dict(type='linearramp'), dict(type='KDLoss'), dict(type='Stop'),
        dict(type='Step'), dict(type='Stop', end=1, gamma=1),
        dict(type='LinearRamp', ends=2), dict(type='PolyLR'),
        [dict(type='Stop', end=1)]]))


@mutation
def schedule_argument(rng, case):
    kind = rng.choice(list(BAD_SCHEDULES))
    name, values = rng.choice(list(BAD_SCHEDULES[kind].items()))
    cfg = dict(type=kind, **(
        dict(end=1) if kind == 'Stop' else dict(milestones=[1]) if (
            kind == 'Step') else {}))
    cfg[name] = copy.deepcopy(rng.choice(values))
    return put_schedule(rng, case, cfg)[0], name


@mutation
def schedule_beyond_the_run(rng, case):
    by_epoch = rng.random() < 0.5
    length = case.lengths[by_epoch]
    far = rng.choice([length + 1, length + 7, 10**6])
    return put_schedule(rng, case, dict(by_epoch=by_epoch, **rng.choice([
        dict(type='LinearRamp', end=far), dict(type='CosineRamp', begin=far),
        dict(type='LinearRamp', begin=length), dict(type='Stop', end=far),
        dict(type='ExponentialRamp', end=far),
        dict(type='CosineRamp', begin=length, end=length),
        dict(type='Step', milestones=[length]),
        dict(type='Step', milestones=[1, far])])))


def take_teacher(rng, case, cfg: dict | None = None,
                 kind: str = 'DistillHook') -> dict:
    """A case whose one teacher is ``cfg`` and in use; returns it."""
    case.hook.clear()
    case.hook.update(type=f'mmselfkd.{kind}', teacher=cfg)
    if kind == 'DistillHook':
        case.hook['losses'] = dict(loss_x=dict(
            type=rng.choice(['PairwiseLoss', 'NFDLoss', 'ATLoss']),
            source='features'))
    return cfg


@mutation
def teacher_argument(rng, case):
    kind = rng.choice(list(TEACHERS))
    name, values = rng.choice(list(TEACHERS[kind].items()))
    value = copy.deepcopy(rng.choice(KINDS[values][1]))
    cfg = dict(dict(interval=1) if kind == 'SnapshotTeacher' else {},
               type=kind, **{name: value})
    take_teacher(rng, case, cfg, 'MixSKDHook' if kind == 'MixTeacher' else
                 'DistillHook')
    if case.head == 'Binary' and kind == 'MixTeacher':
        return None
    return f'teacher = {cfg}', name


@mutation
def second_teacher_argument(rng, case):
    return teacher_argument(rng, case)


@mutation
def teacher_execution(rng, case):
    name, values = rng.choice(list(EXECUTION.items()))
    value = copy.deepcopy(rng.choice(KINDS[values][1]))
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random', **{name: value}))
    return f'teacher.{name} = {value!r}', name


@mutation
def teacher_type(rng, case):
    kind = rng.choice(['EMATeacher', 'SnapshotTeacher', 'SelfTeacher',
                       'MixTeacher', 'OwnTeacher', 'FrozenTeacher'])
    cfg = dict(type=rng.choice([
        misspelt(rng, kind), kind.lower(), 5, True, [], '', 'KDLoss',
        'ResNet']))
    take_teacher(rng, case, cfg)
    return f'teacher = {cfg}', 'type'


@mutation
def unknown_teacher_argument(rng, case):
    kind = rng.choice(['EMATeacher', 'SnapshotTeacher', 'SelfTeacher',
                       'MixTeacher', 'OwnTeacher'])
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
        5, None, [], {}, ['backbone'], ['backbone[0]', 'backbone[1]'], True,
        nan, '', 'backbon', 'decode_head', 'backbone[0]', 'backbone[9]',
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
def two_hooks_of_one_name(rng, case):
    case.cfg['custom_hooks'].insert(
        rng.choice([0, 1]), copy.deepcopy(case.hook))
    return 'two hooks with losses of one name', 'logged as'


@mutation
def averages_hook_first(rng, case):
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random'))
    case.hook['losses']['loss_x']['type'] = 'NFDLoss'
    case.hook['losses']['loss_x']['source'] = 'backbone[1]'
    case.cfg['custom_hooks'].append(
        dict(type='EMAHook', priority='VERY_HIGH'))
    return 'EMAHook copies the model before the adapters', 'EMAHook'


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


@mutation
def second_teacher_config(rng, case):
    return teacher_config(rng, case)


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


@mutation
def second_teacher_checkpoint(rng, case):
    return teacher_checkpoint(rng, case)


@mutation
def no_teacher_checkpoint(rng, case):
    take_teacher(rng, case, dict(config=make_model('FCN', 8)))
    return 'no checkpoint', 'checkpoint'


@mutation
def inherit(rng, case):
    if case.head in ('SegFormer', 'Binary'):
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
        ['EMATeacher', 'OwnTeacher', 'SelfTeacher'])))
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
    if case.head == 'SegFormer':
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
    case.hook['teacher'] = {name: taught, 'other': dict(type='OwnTeacher')}
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


def make_valid(seed: Any, number: int, folder: str) -> Case:
    rng = random.Random(f'{seed} valid {number}')
    case = make_base(rng, f'valid-{number}', folder)
    terms = case.terms
    if rng.random() < 0.1:
        rng.choice(list(terms.values()))[0]['loss_weight'] = 0
    return case


def make_invalid(seed: Any, number: int, folder: str) -> Case:
    rng = random.Random(f'{seed} invalid {number}')
    spoil = MUTATIONS[number % len(MUTATIONS)]
    while True:
        case = make_base(rng, f'invalid-{number}', folder)
        case.expected = 'error'
        case.files[''] = folder
        spoilt = spoil(rng, case)
        if spoilt is not None:
            del case.files['']
            case.what, case.says = f'{spoil.__name__}: {spoilt[0]}', spoilt[1]
            return case


# -- running -----------------------------------------------------------------


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """What AmpOptimWrapper, which wants a GPU, does to the forward pass."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(
                'cpu', dtype=torch.bfloat16):
            yield


class Logs(Hook):
    priority = 'VERY_LOW'

    def __init__(self):
        self.entries = []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.entries.append({k: float(v.detach()) for k, v in outputs.items()})


def write(case: Case) -> None:
    """The files of the case."""
    for path, content in case.files.items():
        if isinstance(content, str):
            Path(path).write_text(content)
        elif isinstance(content, bytes):
            Path(path).write_bytes(content)
        elif content[0] == 'torch':
            torch.save(content[1], path)
        else:
            kind, model = content
            built = MMENGINE_MODELS.build(dict(model, _scope_='mmseg'))
            state = {k: v for k, v in built.state_dict().items()
                     if 'auxiliary_head' not in k}
            if kind == 'numbers':
                state = dict.fromkeys(state, 5)
            meta = dict(weights={}, meta=5, classes=dict(
                dataset_meta=dict(classes=5)), numbers={})[kind]
            torch.save(dict(state_dict=state, meta=meta), path)


def run(case: Case, folder: Path) -> tuple[Any, list[dict], Any]:
    """Runner (None if it was not built), logged values, exception."""
    write(case)
    cfg = Config(copy.deepcopy(case.cfg))
    cfg.work_dir = str(folder / 'work_dir')
    runner, logs, error = None, Logs(), None
    try:
        # mmengine lays the config out several times, for longer than we train
        with mock.patch.object(Config, 'pretty_text', ''):
            runner = tiny_runs.build(cfg)
            runner.register_hook(logs)
            runner.train()
    except Exception as caught:
        error = caught
    if runner is not None:
        for handler in runner.logger.handlers[:]:
            handler.close()  # a closed one must not stay: mmengine writes to
            runner.logger.removeHandler(handler)  # the last run's logger
    return runner, logs.entries, error


def problems_of(case: Case, folder: Path) -> list[str]:
    """What is wrong with the outcome of a case; empty if all is well."""
    with torch.random.fork_rng():
        runner, logs, error = run(case, folder)
    problems = []
    if runner is not None:
        problems += _traces(runner)
    if error is None and case.expected == 'error':
        return problems + ['was accepted']
    if error is None:
        return problems + _check_run(case, runner, logs, folder)
    if case.expected == 'train' or not isinstance(error, ConfigError):
        problems.append(''.join(traceback.format_exception(error)[-4:]))
        if case.expected == 'train':
            problems += _plain_problems(case, folder)
        return problems
    if runner is not None and runner.iter != 0:
        problems.append(f'refused after {runner.iter} iterations')
    if case.says not in str(error):
        problems.append(f'{case.says!r} is not named in: {error}')
    return problems


def _traces(runner) -> list[str]:
    """What is left of the hook."""
    traces = [
        f'a torch hook left on {name!r}'
        for name, module in runner.model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks]
    if hasattr(runner.model, 'mmselfkd'):
        traces.append('the submodule mmselfkd is left')
    if any(type(hook).__name__ == 'StateHook' for hook in runner.hooks):
        traces.append('StateHook is left')
    if {'load_or_resume', '_init_model_weights'} & set(vars(runner)):
        traces.append('a guard is left on the runner')
    return traces


def _check_run(case: Case, runner, logs: list[dict],
               folder: Path) -> list[str]:
    problems = []
    if len(logs) != STEPS:
        problems.append(f'made {len(logs)} steps')
    for number, log in enumerate(logs):
        bad = {k: v for k, v in log.items() if not math.isfinite(v)}
        if bad:
            problems.append(f'iteration {number}: {bad}')
        parts = sum(v for k, v in log.items() if 'loss' in k and k != 'loss')
        if not bad and abs(log['loss'] - parts) > 1e-3 * (1 + abs(parts)):
            problems.append(f'iteration {number}: loss {log["loss"]} is not '
                            f'the sum {parts} of {log}')
        if not -1e-4 <= log.get('distill/agreement', 0) <= 1 + 1e-4:
            problems.append(f'iteration {number}: {log}')
    state = runner.model.state_dict()
    problems += [f'{name} is not finite' for name, value in state.items()
                 if not value.isfinite().all()]
    plain = MMENGINE_MODELS.build(dict(case.cfg['model'], _scope_='mmseg'))
    names = list(plain.state_dict())
    last = (folder / 'work_dir' / 'last_checkpoint').read_text()
    saved = torch.load(last, weights_only=False)
    if list(saved['state_dict']) != names or list(state) != names:
        problems.append('the saved keys are not those of the plain model')
    if 'ema_state_dict' in saved and set(saved['ema_state_dict']) != {
            'steps', *(f'module.{name}' for name in names)}:
        problems.append('the saved average is not that of the plain model')
    expected = build_optim_wrapper(plain, case.cfg['optim_wrapper'])
    counts = [[len(group['params']) for group in groups] for groups in (
        saved['optimizer']['param_groups'],
        expected.optimizer.param_groups)]
    if counts[0] != counts[1]:
        problems.append('the saved optimizer has {} parameters in {} groups, '
                        'the plain one {} in {}'.format(*(
                            f(count) for count in counts for f in (sum, len))))
    hook = next(h for h in runner.hooks if isinstance(h, DistillHook))
    for term in hook.terms:
        for name, _ in term.adapters.named_parameters():
            if f'{term.name}.{name}' not in saved['mmselfkd']['modules']:
                problems.append(f'adapter {term.name}.{name} is not saved')
    expected = {f'distill.{term.name}' for term in hook.terms
                if term.loss_weight > 0}
    if any(not expected <= set(log) for log in logs):
        problems.append(f'not all of {expected} are logged')
    return problems


def _plain_problems(case: Case, folder: Path) -> list[str]:
    """Whether the student alone trains: if not, the fuzz is to blame."""
    plain = copy.deepcopy(case)
    plain.cfg['custom_hooks'] = [
        hook for hook in plain.cfg['custom_hooks']
        if hook['type'] == 'EMAHook']
    error = run(plain, folder / 'plain')[2]
    return [] if error is None else [f'the plain run fails too: {error!r}']


def replay(case: Case) -> str:
    """The config as Python."""
    text = pprint.pformat(case.cfg, sort_dicts=False, width=79)
    return f'from math import inf, nan\n\n# {case.label}\ncfg = {text}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--valid', type=int, default=100)
    parser.add_argument('--invalid', type=int, default=400)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', help='one case: valid-N or invalid-N')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    labels = [args.only] if args.only else [
        *(f'valid-{n}' for n in range(args.valid)),
        *(f'invalid-{n}' for n in range(args.invalid))]
    failed, start = [], time.process_time()
    for label in labels:
        kind, _, number = label.partition('-')
        make = dict(valid=make_valid, invalid=make_invalid)[kind]
        with tempfile.TemporaryDirectory() as folder:
            case = make(args.seed, int(number), folder)
            problems = problems_of(case, Path(folder))
        if problems or args.only:
            print(replay(case))
        if problems:
            failed.append(f'{label} {case.what}: {problems[0].strip()}')
            print('\n'.join([f'{label} FAILED {case.what}', *problems]),
                  flush=True)
    for line in failed:
        print('FAILED', line.splitlines()[0], '...', line.splitlines()[-1])
    valid = sum(label.startswith('valid') for label in labels)
    print(f'fuzz: seed {args.seed}, {valid} valid, {len(labels) - valid} '
          f'invalid, {len(failed)} failed, '
          f'{time.process_time() - start:.0f} s of CPU')
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
