"""Spoils the arguments of a loss, and what it is compared on."""
from math import inf, nan

from ..cases import LOSSES
from ..models import make_model
from ..valid import SIGMOID_LISTS
from ..values import LATER, arguments, misspelt, one_illegal
from .base import (
    again,
    as_written,
    losses_on,
    mutation,
    pick_term,
    take_teacher,
)


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
    name = misspelt(rng, rng.choice([
        *arguments(LOSSES[full['type']]), 'loss_weight', 'share', 'schedule',
        'source']))
    entry[name] = 1
    return f'losses.{key}.{name} = 1', name


@mutation
def loss_argument(rng, case):
    key, entry, full = pick_term(rng, case)
    if not arguments(LOSSES[full['type']]):
        return None
    name, entry[name] = one_illegal(rng, LOSSES[full['type']])
    return f'losses.{key}.{name} = {entry[name]!r}', name


again(loss_argument, 2)


@mutation
def adversarial_optimizer(rng, case):
    picked = pick_term(rng, case, 'optimizer')
    if picked is None:
        return None
    picked[1]['optimizer'] = as_written(rng.choice(LATER['optimizer'][1]))
    return f'optimizer = {picked[1]["optimizer"]!r}', 'optimizer'


@mutation
def option_of_a_loss(rng, case):
    """One that is described by a dict: soft labels have two."""
    name = rng.choice(['adjust', 'dynamic_temperature'])
    picked = pick_term(rng, case, name)
    if picked is None:
        return None
    illegal = arguments(LOSSES[picked[2]['type']])[name].illegal
    picked[1][name] = as_written(rng.choice(
        [value for value in illegal if isinstance(value, dict)]))
    return f'{name} = {picked[1][name]!r}', name


@mutation
def loss_weight(rng, case):
    key, entry, _ = pick_term(rng, case)
    entry['loss_weight'] = rng.choice(
        [-1, -0.1, nan, inf, '1', 'atuo', None, True, [], {}, [1.], 1e30,
         10**400])
    return f'losses.{key}.loss_weight = {entry["loss_weight"]!r}', (
        'loss_weight')


@mutation
def other_classes(rng, case):
    if case.head == 'Binary' or not case.hook['type'].endswith('DistillHook'):
        return None
    model = make_model('FCN', 8, rng.choice([5, 8, 19]))
    take_teacher(rng, case, dict(config=model, checkpoint='random'))
    case.hook['losses'] = {'loss': dict(
        type=rng.choice(losses_on('classes')), source='logits')}
    return 'another number of classes', 'loss'


@mutation
def other_activation(rng, case):
    """Scores of a softmax and of a sigmoid, whatever stands in the list."""
    if case.head == 'Binary' or case.is_sigmoid:
        return None
    model = make_model('FCN', 8)
    model['decode_head']['loss_decode'] = as_written(
        rng.choice(SIGMOID_LISTS))
    take_teacher(rng, case, dict(config=model, checkpoint='random'))
    case.hook['losses'] = {'loss': dict(
        type=rng.choice(['KDLoss', 'DISTLoss']), source='logits')}
    return 'a sigmoid teaches a softmax', 'activation'


@mutation
def one_channel(rng, case):
    if case.head != 'Binary':
        return None
    take_teacher(rng, case, dict(type='EMATeacher'))
    case.hook['losses'] = {'loss': rng.choice([
        dict(type='ICSDLoss', source='logits'),
        *(dict(type=name, source='logits', activation='softmax')
          for name in losses_on('classes')
          if 'activation' in arguments(LOSSES[name]))])}
    return 'a softmax over one channel', 'loss'


@mutation
def other_channels(rng, case):
    take_teacher(rng, case, dict(
        config=make_model('FCN', 8), checkpoint='random'))
    case.hook['losses'] = dict(loss_x=dict(
        type=rng.choice(losses_on('equal')), source='backbone[2]'))
    return 'a loss that needs equal channels', 'loss_x'
