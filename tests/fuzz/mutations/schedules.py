"""Spoils a schedule, of a loss or of the task."""
from math import nan

from mmselfkd import schedules

from ..values import one_illegal
from .base import mutation, pick_term


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
    kind = rng.choice(schedules.__all__)
    name, value = one_illegal(rng, getattr(schedules, kind))
    cfg = dict(type=kind, **(
        dict(end=1) if kind == 'Stop' else dict(milestones=[1]) if (
            kind == 'Step') else {}))
    cfg[name] = value
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
