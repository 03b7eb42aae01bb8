"""Spoils what a loss looks at."""
import copy
from math import nan

from ..cases import LOSSES
from ..models import SEVERAL
from ..values import misspelt
from .base import mutation, pick_term


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
        if source.split(':')[-1] in SEVERAL:
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
    return spoil_source(  # a patch embedding gives a size, too
        rng, case, lambda s: None if ':' in s else rng.choice(
            ['backbone.layers.0.0', 'backbone.layers.2.0']), ['student'])


@mutation
def source_of_auxiliary_head(rng, case):
    if case.head != 'Auxiliary':
        return None
    name, taught = rng.choice(list(case.teachers.items()))
    if not isinstance(taught.cfg, dict) or taught.cfg.get(
            'type') == 'StudentAsTeacher':
        return None
    key, entry, _ = pick_term(rng, case)
    source = f'{name}:auxiliary_head.conv_seg'
    entry.clear()
    entry.update(type='NFDLoss', source=dict(
        student='logits', teacher=source))
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
def other_levels(rng, case):
    key, entry, full = pick_term(rng, case)
    one = rng.choice(['backbone[2]', ['backbone[3]', 'backbone[0]'],
                      'features', ['backbone', 'features']])
    taught = next(iter(case.teachers.values()))
    if len(case.teachers) > 1 or LOSSES[full['type']].sizes == 'any' or (
            'backbone' not in taught.places.many):
        return None
    both = ['backbone', one]
    rng.shuffle(both)
    entry['source'] = dict(student=both[0], teacher=both[1])
    return f'losses.{key}.source = {entry["source"]}', 'source'
