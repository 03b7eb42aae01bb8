import math
import subprocess
import sys

import pytest

from mmselfkd.schedules import (
    CosineRamp,
    ExponentialRamp,
    LinearRamp,
    Step,
    Stop,
)

RAMPS = [LinearRamp, CosineRamp, ExponentialRamp]
SCHEDULES = RAMPS + [lambda **kwargs: Step([3], **kwargs),
                     lambda **kwargs: Stop(3, **kwargs)]
every_ramp = pytest.mark.parametrize('ramp', RAMPS)
every_schedule = pytest.mark.parametrize('schedule', SCHEDULES)


def factors(schedule, times):
    return [schedule.factor(t) for t in times]


def test_linear_ramp():
    ramp = LinearRamp(begin=2, end=6, start_factor=3.0, end_factor=1.0)
    expected = [3, 3, 3, 2.5, 2, 1.5, 1, 1, 1]
    assert factors(ramp, range(9)) == pytest.approx(expected)


def test_cosine_ramp():
    ramp = CosineRamp(begin=1, end=4, start_factor=0.5, end_factor=2.5)
    # cos(pi / 3) = 1/2, cos(2 pi / 3) = -1/2
    expected = [0.5, 0.5, 1.0, 2.0, 2.5, 2.5]
    assert factors(ramp, range(6)) == pytest.approx(expected)


def test_exponential_ramp():
    ramp = ExponentialRamp(begin=2, end=6, rate=8.0)
    # u = 1/4, 1/2, 3/4, 1: exponents -8 * (9/16, 1/4, 1/16, 0)
    expected = [0, 0, math.exp(-4.5), math.exp(-2), math.exp(-0.5), 1, 1]
    assert factors(ramp, range(7)) == pytest.approx(expected)


def test_step():
    step = Step([2, 5], gamma=0.5)
    assert factors(step, range(7)) == [1, 1, .5, .5, .5, .25, .25]
    assert factors(Step((1, ), gamma=0), range(3)) == [1, 0, 0]


def test_stop():
    assert factors(Stop(2), range(4)) == [1, 1, 0, 0]


@every_ramp
def test_ramp_reaches_one_and_stays(ramp):
    ramp = ramp(begin=3, end=9)
    values = factors(ramp, range(15))
    assert values[0] == 0 and values[9:] == [1.0] * 6
    assert values == sorted(values)


@every_ramp
def test_end_is_the_length_of_the_run(ramp):
    open_end = ramp(begin=2)
    open_end.resolve(10)
    assert open_end.end == 10
    assert factors(open_end, range(12)) == factors(
        ramp(begin=2, end=10), range(12))
    with pytest.raises(RuntimeError, match='resolve'):
        ramp().factor(0)


@every_ramp
def test_given_end_is_kept(ramp):
    ramp = ramp(end=5)
    ramp.resolve(10)
    ramp.resolve(5)
    assert ramp.end == 5


@every_schedule
def test_factors_are_floats(schedule):
    schedule = schedule()
    schedule.resolve(10)
    assert all(type(schedule.factor(t)) is float for t in range(12))


@every_schedule
def test_unit(schedule):
    assert schedule().by_epoch is False
    assert schedule(by_epoch=True).by_epoch is True
    with pytest.raises(ValueError, match='by_epoch must be True or False'):
        schedule(by_epoch='epoch')


@pytest.mark.parametrize('make, name, value, last', [
    (lambda: LinearRamp(begin=10), 'begin', 10, 9),
    (lambda: CosineRamp(begin=12, end=20), 'begin', 12, 9),
    (lambda: LinearRamp(end=11), 'end', 11, 10),
    (lambda: ExponentialRamp(end=11), 'end', 11, 10),
    (lambda: Step([3, 10]), 'milestones', 10, 9),
    (lambda: Stop(11), 'end', 11, 10),
])
def test_beyond_the_run(make, name, value, last):
    with pytest.raises(ValueError) as error:
        make().resolve(10)
    assert str(error.value) == (
        f'{name} must be {last} or less in a run of 10, but got {value}')


@pytest.mark.parametrize('make', [
    lambda: LinearRamp(begin=9), lambda: CosineRamp(end=10),
    lambda: ExponentialRamp(begin=9, end=10), lambda: Step([9]),
    lambda: Stop(10)])
def test_as_long_as_the_run(make):
    schedule = make()
    schedule.resolve(10)  # accepted
    assert 0 <= schedule.factor(9) <= 1


@every_ramp
@pytest.mark.parametrize('name, value, allowed', [
    ('begin', -1, 'begin must be an integer of 0 or more'),
    ('begin', 1.0, 'begin must be an integer of 0 or more'),
    ('end', 0, 'end must be an integer of 1 or more'),
    ('end', True, 'end must be an integer of 1 or more'),
    ('end', '5', 'end must be an integer of 1 or more'),
])
def test_bad_times(ramp, name, value, allowed):
    with pytest.raises(ValueError) as error:
        ramp(**{name: value})
    assert allowed in str(error.value) and repr(value) in str(error.value)


@every_ramp
@pytest.mark.parametrize('begin, end', [(5, 5), (6, 5)])
def test_end_before_begin(ramp, begin, end):
    with pytest.raises(ValueError, match=f'begin {begin}, end {end}'):
        ramp(begin=begin, end=end)


@pytest.mark.parametrize('make, name, value', [
    (LinearRamp, 'start_factor', -1.0),
    (CosineRamp, 'end_factor', float('nan')),
    (LinearRamp, 'end_factor', None),
    (ExponentialRamp, 'rate', 0),
    (ExponentialRamp, 'rate', -5.0),
    (ExponentialRamp, 'rate', float('inf')),
    (Step, 'gamma', -0.1),
    (Step, 'milestones', []),
    (Step, 'milestones', 3),
    (Step, 'milestones', [3, 3]),
    (Step, 'milestones', [5, 3]),
    (Step, 'milestones', [0]),
    (Step, 'milestones', [1.5]),
    (Stop, 'end', 0),
    (Stop, 'end', None),
])
def test_bad_arguments(make, name, value):
    arguments = {name: value}
    if make is Step:
        arguments.setdefault('milestones', [3])
    shown = value[0] if value in ([0], [1.5]) else value
    with pytest.raises(ValueError) as error:
        make(**arguments)
    assert str(error.value).startswith(f'{name} must')
    assert repr(shown) in str(error.value)


def test_needs_no_torch():
    code = ('import sys; sys.modules.update(torch=None, mmengine=None); '
            'import mmselfkd.schedules')
    subprocess.run([sys.executable, '-c', code], check=True)


@every_ramp
def test_shares_of_the_run(ramp):
    """A fraction is that share of the run, in a run of any length."""
    for length, begin, end in ((60, 40, 54), (90, 60, 81)):
        shares, times = ramp(begin=2 / 3, end=0.9), ramp(begin, end)
        shares.resolve(length)
        times.resolve(length)
        assert factors(shares, range(length)) == factors(times, range(length))
    short = ramp(begin=0.9, end=0.95)  # never beyond the run
    short.resolve(1)
    assert short.factor(1) == 1


@every_ramp
@pytest.mark.parametrize('times', [
    dict(begin=0.5, end=0.25), dict(begin=1.0), dict(begin=-0.5),
    dict(end=0.0), dict(end=1.5)])
def test_shares_out_of_range(ramp, times):
    with pytest.raises(ValueError, match='begin|end'):
        ramp(**times)


@every_ramp
def test_shares_need_the_length_first(ramp):
    with pytest.raises(RuntimeError, match='resolve'):
        ramp(begin=0.5, end=7).factor(0)
