"""Means over seeds, and differences paired by seed."""
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """A mean difference over seeds.

    Args:
        mean (float): NaN without a common seed.
        half (float): Half of the 95 % interval; NaN for one seed.
        seeds (int): Number of common seeds.
    """

    mean: float
    half: float
    seeds: int

    def write(self, digits: int = 2) -> str:
        """``+1.20 ± 0.30``; no interval for one seed, ``-`` for none."""
        if self.seeds == 0:
            return '-'
        if np.isnan(self.mean):
            return 'NaN'
        text = f'{self.mean:+.{digits}f}'
        return text + f' ± {self.half:.{digits}f}' * (self.seeds > 1)


def paired(scores: Mapping[int, float],
           reference: Mapping[int, float]) -> Difference:
    r"""The mean difference over the seeds of both, with its interval.

    .. math::
        \bar d \pm t_{0.975}(n - 1) \, s / \sqrt n

    d are the n differences of equal seed, s their standard deviation (with
    n - 1), t the quantile of Student's distribution. NaN of one seed makes the
    mean NaN.

    Args:
        scores (Mapping[int, float]): By seed.
        reference (Mapping[int, float]): By seed.

    Example:
        >>> paired({0: 3., 1: 5.}, {0: 2., 1: 3., 2: 9.}).write()
        '+1.50 ± 6.35'
        >>> paired({0: 3.}, {0: 2.}).write()
        '+1.00'
    """
    seeds = sorted(scores.keys() & reference.keys())
    if not seeds:
        return Difference(np.nan, np.nan, 0)
    differences = [scores[seed] - reference[seed] for seed in seeds]
    mean = float(np.mean(differences))
    if len(seeds) == 1:
        return Difference(mean, np.nan, 1)
    half = stats.sem(differences) * stats.t.ppf(0.975, len(seeds) - 1)
    return Difference(mean, float(half), len(seeds))


def deviation(values: list[float]) -> float:
    """Standard deviation with n - 1; NaN for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
