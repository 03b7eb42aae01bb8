"""Means and intervals over seeds."""
import math

import pytest
from scipy import stats

from mmselfkd.comparison.statistics import deviation, paired


def test_interval_is_that_of_the_paired_t_test():
    a, b = {0: 51., 1: 49., 2: 50.5, 9: 1.}, {2: 49., 1: 48.5, 0: 50., 7: 2.}
    mean, half, count = paired(a, b)
    reference = stats.ttest_rel([51., 49., 50.5], [50., 48.5, 49.])
    low, high = reference.confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert count == 3
    # by hand: differences 0, 1, 2; t(2) = 4.3027, standard error 1 / sqrt 3
    mean, half, _ = paired({0: 0, 1: 1, 2: 2}, {0: 0, 1: 0, 2: 0})
    assert (mean, half) == pytest.approx((1, 2.4841), abs=1e-4)


def test_one_seed_has_no_interval_and_none_no_gain():
    mean, half, count = paired({0: 3.}, {0: 1., 1: 5.})
    assert (mean, count) == (2., 1) and math.isnan(half)
    assert paired({0: 3.}, {0: 1., 1: 5.}).write() == '+2.00'
    assert paired({0: 3.}, {1: 1.}).write() == '-'


def test_nan_of_one_seed_is_not_averaged_away():
    difference = paired({0: 3., 1: math.nan}, {0: 1., 1: 5.})
    assert math.isnan(difference.mean) and difference.write() == 'NaN'


def test_deviation():
    assert deviation([1., 2., 3.]) == 1 and math.isnan(deviation([1.]))
