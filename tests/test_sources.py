"""Whose a source is, and what is wrong with one."""
import pytest

from mmselfkd.errors import ConfigError
from mmselfkd.sources import STUDENT, Source, as_list, gather, parse_source

OURS = Source(STUDENT, 'neck')


@pytest.mark.parametrize('source, student, teacher', [
    ('neck', [OURS], [Source('a', 'neck')]),
    (['neck', 'x[0]'], [OURS, Source(STUDENT, 'x[0]')],
     [Source('a', 'neck'), Source('a', 'x[0]')]),
    (dict(student='neck', teacher=('y', 'z')), [OURS],
     [Source('a', 'y'), Source('a', 'z')]),
    (dict(student='a:mixed.logits', teacher='a:y'),
     [Source('a', 'mixed.logits')], [Source('a', 'y')])])
def test_each_side_and_its_owner(source, student, teacher):
    assert parse_source(source, 'key', ['a']) == (student, teacher)


def test_of_several_teachers_one_is_named():
    names = ['a', 'b']
    source = dict(student='neck', teacher='b:neck')
    assert parse_source(source, 'key', names) == (
        [OURS], [Source('b', 'neck')])
    with pytest.raises(ConfigError, match=(
            r"key = 'neck': there are several .*'<name>:neck' .*'a', 'b'")):
        parse_source('neck', 'key', names)


@pytest.mark.parametrize('source, says', [
    (5, 'key = 5: a string'), ([], r'key = \[\]: a string'),
    (['neck', 5], r"key = \['neck', 5\]: a string"),
    (dict(student='neck'), r"key = {.*'student' and 'teacher'"),
    (dict(student='a', teacher='b', other='c'), 'exactly the keys'),
    ('teachr:neck', "key = 'teachr:neck': no teacher 'teachr'; nearest: "
     "'teacher'")])
def test_what_is_no_source(source, says):
    with pytest.raises(ConfigError, match=says):
        parse_source(source, 'key', ['teacher'])


def test_levels_of_several_sources_follow_each_other():
    assert as_list('neck', 'key') == ['neck']
    assert gather(['b', 'a'], dict(a=[1], b=[2, 3], c=[4])) == [2, 3, 1]
