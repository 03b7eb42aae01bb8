"""Spoils a hook, its losses as a whole, and how hooks stand together."""
import copy
from math import nan

from ..cases import hook_class
from ..models import make_model
from .base import mutation, pick_term, take_teacher


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
    if hook_class(case.hook).preset_teacher:
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
    preset = hook_class(case.hook).preset
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
def two_hooks_of_one_name(rng, case):
    case.cfg['custom_hooks'].insert(
        rng.choice([0, 1]), copy.deepcopy(case.hook))
    return 'two hooks with losses of one name', 'logged as'


@mutation
def memory_in_fixed_views(rng, case):
    """A recorded view is the same each time, and this one is not."""
    loader = case.cfg['train_dataloader']
    loader['dataset']['pipeline'].insert(2, dict(type='Brighter'))
    loader['dataset'] = dict(
        type='mmselfkd.FixedViews', views=rng.choice([1, 2]),
        dataset=loader['dataset'])
    loader['sampler'] = dict(
        type='mmselfkd.ViewSampler', sampler=loader['sampler'])
    return 'a transform with a memory in FixedViews', 'Brighter'


@mutation
def averages_hook_first(rng, case):
    if case.head == 'Segmenter':  # as many channels: no adapter
        return None
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random'))
    case.hook['losses']['loss_x']['type'] = 'NFDLoss'
    case.hook['losses']['loss_x']['source'] = 'backbone[1]'
    case.cfg['custom_hooks'].append(
        dict(type='EMAHook', priority='VERY_HIGH'))
    return 'EMAHook copies the model before the adapters', 'EMAHook'
