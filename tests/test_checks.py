"""Checks of arguments: the limits, and what the messages say."""
import math
import subprocess
import sys

import pytest

from mmselfkd import checks

HUGE = 10**400  # an integer that no float holds


@pytest.mark.parametrize('check, options, good, bad', [
    ('positive', {}, [1e-12, 1, 0.5, 1e12],
     [0, -1, 1e-13, 2e12, HUGE, math.inf, math.nan, True, '1', None]),
    ('positive', dict(least=1e-6, most=1), [1e-6, 1], [1e-7, 1.5]),
    ('not_negative', {}, [0, 0.0, 1e-30, 1e12],
     [-1e-9, 2e12, HUGE, math.inf, math.nan, False, '1', None]),
    ('not_negative', dict(least=1, most=3), [1, 3.0], [0.9, 3.1]),
    ('integer', {}, [-3, 0, HUGE], [1.0, True, None, '1']),
    ('integer', dict(minimum=2), [2, 3], [1, -1, 2.0, True, None]),
    ('integer_or_none', {}, [None, -3, 0], [1.0, True, '1']),
    ('integer_or_none', dict(minimum=2), [None, 2], [1, False]),
    ('choice', dict(choices=('a', None)), ['a', None], ['b', 0, '']),
    ('bool', {}, [True, False], [0, 1, None, 'yes']),
])
def test_limits(check, options, good, bad):
    check = getattr(checks, f'check_{check}')
    for value in good:
        assert check('losses.loss_kd.x', value, **options) is None
    for value in bad:
        with pytest.raises(ValueError) as error:
            check('losses.loss_kd.x', value, **options)
        assert str(error.value).startswith('losses.loss_kd.x must be ')
        assert str(error.value).endswith(f', but got {value!r}')


@pytest.mark.parametrize('check, options, allowed', [
    ('positive', {}, 'a finite number above 0, from 1e-12 to 1e+12'),
    ('positive', dict(most=1), 'a finite number above 0, from 1e-12 to 1'),
    ('not_negative', {}, 'a finite number of 0 or more, at most 1e+12'),
    ('not_negative', dict(least=1), 'a finite number of 1 or more, at most'),
    ('integer', {}, 'an integer, but'),
    ('integer', dict(minimum=2), 'an integer of 2 or more'),
    ('integer_or_none', {}, 'None or an integer, but'),
    ('integer_or_none', dict(minimum=2), 'None or an integer of 2 or more'),
    ('choice', dict(choices=('a', 'b')), "one of 'a', 'b'"),
    ('bool', {}, 'True or False'),
])
def test_messages_say_what_is_allowed(check, options, allowed):
    with pytest.raises(ValueError) as error:
        getattr(checks, f'check_{check}')('x', [], **options)
    assert f'x must be {allowed}' in str(error.value)


def test_needs_no_torch():
    code = ('import sys; sys.modules.update(torch=None, mmengine=None); '
            'import mmselfkd.checks')
    subprocess.run([sys.executable, '-c', code], check=True)
