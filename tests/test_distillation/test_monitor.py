"""What the log says of a distillation, and when it warns."""
import logging
import math

import pytest
import torch
from mmengine.logging import MMLogger

from mmselfkd.distillation.monitor import (
    LARGE,
    WINDOW,
    Monitor,
    render,
)


@pytest.fixture
def warnings():
    """What the current logger is told."""
    texts = []

    class Keep(logging.Handler):

        def emit(self, record):
            texts.append(record.getMessage())

    MMLogger.get_instance(f'monitor{id(texts)}').addHandler(Keep())
    return texts


def feed(values, task=1., weight=1.):
    monitor = Monitor(['loss_kd'])
    for i, value in enumerate(values):
        monitor.update({'decode.loss_ce': torch.tensor(task),
                        'loss': torch.tensor(task + value),
                        'decode.acc_seg': torch.tensor(50.),
                        'distill.loss_kd': torch.tensor(value)},
                       dict(loss_kd=weight), i)
    return monitor


def test_healthy_term_gives_no_warning(warnings):
    feed([1. / (i + 1) for i in range(60)])
    assert warnings == []


@pytest.mark.parametrize('spread', [0, 1e-7])
def test_constant_term(warnings, spread):
    """Also where float32 leaves a little of it."""
    values = [0.5 * (1 + spread * (i % 2)) for i in range(60)]
    feed(values[:WINDOW - 1])
    assert warnings == []
    feed(values)
    assert len(warnings) == 1 and 'has not changed' in warnings[0]


def test_a_small_term_that_moves_is_not_constant(warnings):
    feed([1e-5 * (1 + 1e-3 * (i % 2)) for i in range(60)])
    assert warnings == []


def test_a_term_that_is_nothing_beside_the_task(warnings):
    """A zero, but for what float32 leaves of it."""
    feed([1e-9 * (i % 3) for i in range(60)])
    assert len(warnings) == 1
    assert 'nothing beside the task loss 1' in warnings[0]


def test_term_that_is_off_is_not_watched(warnings):
    monitor = feed([0.] * 60, weight=0.)
    assert warnings == [] and monitor.active == dict(loss_kd=0)


def test_non_finite_term_is_named_each_time(warnings):
    feed([1., math.nan, 2., math.inf, 3.])
    assert len(warnings) == 2
    assert 'nan in iteration 2' in warnings[0]
    assert 'inf in iteration 4' in warnings[1]


def test_term_that_dwarfs_the_task(warnings):
    feed([LARGE - 1., LARGE - 2.])
    assert warnings == []
    feed([LARGE + 1., LARGE + 2.])
    assert len(warnings) == 1
    assert f'{LARGE + 1} times the task loss 1' in warnings[0]
    assert 'distill.loss_kd' in warnings[0]
    assert 'loss_weight' in warnings[0]


def test_a_size_before_training_is_not_told_twice(warnings):
    monitor = Monitor(['loss_kd'])
    monitor.check_size('loss_kd', 1., 0.)  # no task loss to compare with
    assert warnings == []
    for _ in range(2):
        monitor.check_size('loss_kd', 1000., 2.)
    assert len(warnings) == 1 and '500 times' in warnings[0]


@pytest.mark.parametrize('alive, says', [
    ([True, True], None),
    ([False], 'trains nothing: what it looks at carries no gradient'),
    ([False, True, False],
     'trains nothing there: level 0, 2 (0 to 2) of what it looks at')])
def test_what_carries_no_gradient(warnings, alive, says):
    monitor = Monitor(['loss_kd'])
    for _ in range(2):
        monitor.check_gradients('loss_kd', alive)
    if says is None:
        assert warnings == []
    else:
        text, = warnings
        assert text.startswith('distill.loss_kd ') and says in text


def test_summary_has_first_and_last(warnings):
    text = feed([float(i) for i in range(100)]).summary()
    assert 'distill.loss_kd' in text and '100' in text
    assert '9.5' in text and '89.5' in text  # means of 0..19 and 80..99


def test_table_is_plain_text():
    text = render('title', ('a', 'b'), [(1, 'x')])
    assert 'title' in text and '| 1 | x |' in text
    assert text.isascii()
