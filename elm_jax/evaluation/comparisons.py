"""Differences of many ways from one, and which of many are not shown to be worse.

Each single 95 % interval misses one truth in twenty, so a table of twenty shows a
difference where there is none. Simultaneous intervals hold all their truths in 95 of
100 repetitions: they reach as many standard errors as the widest miss of a resample
does, over all differences, in 95 % of the resamples, or, as `estimates` says, as far as
Student's t that is as unlikely.

References: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13; Westfall
and Young, Resampling-Based Multiple Testing, chapter 2; McNemar (1947), Note on the
sampling error of the difference between correlated proportions.
"""

import math
import statistics as normal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from elm_jax.evaluation import estimates, results, statistics

_LEVEL = 0.95
# A report calls a way better by simultaneous intervals, too: by their lower ends, in
# 2.5 of 100 reports in which none is. That leaves 2.5 of 5 in 100.
_CAREFUL_LEVEL = 0.975
_LEAST_SCALE = 1e-3  # points; below it lies the rounding of equal choices
_POWER = 0.8
_NORMAL = normal.NormalDist().inv_cdf(0.5 + _LEVEL / 2)
_POWER_NORMAL = normal.NormalDist().inv_cdf(_POWER)


class Comparison(NamedTuple):
    """One way's distance from the baseline, in points.

    Attributes:
      gap: With its own 95 % interval.
      simultaneous: With the interval that holds together with all others.
      least: The smallest true difference that rows like these show in 8 of 10 cases,
        by the simultaneous interval.
      num_trainings: Training seeds of the way or the baseline, the fewer of them.
    """

    gap: results.Interval
    simultaneous: results.Interval
    least: float
    num_trainings: int


class SignTest(NamedTuple):
    """How many rows the first of two models gets better, and how many the second.

    Attributes:
      wins: Rows on which the first has the greater mean over prompts.
      losses: Those on which the second has.
      p_value: Exact, two-sided: of so uneven a split where both are as likely.
    """

    wins: int
    losses: int
    p_value: float


def against(
    baseline: estimates.Estimate, ways: Mapping[str, estimates.Estimate]
) -> dict[str, Comparison]:
    """Returns the distance of each way from a baseline on the same rows.

    Raises:
      DataError: A way was not scored on the baseline's rows.
    """
    gaps = {name: way - baseline for name, way in ways.items()}
    reach = _reach(list(gaps.values()))
    comparisons = {}
    for name, gap in gaps.items():
        width = gap.reach(reach) * gap.scale
        comparisons[name] = Comparison(
            gap.interval,
            gap.between(gap.mean - width, gap.mean + width),
            width + _POWER_NORMAL * gap.scale,
            gap.num_trainings,
        )
    return comparisons


def not_worse(ways: Sequence[estimates.Estimate]) -> list[set[int]]:
    """Returns which ways no other is shown to beat, of each dataset and of the mean.

    All pairs on all datasets are compared at once, so that where no way differs from
    another, this calls one better in at most 2.5 of 100 tables.

    Args:
      ways: All on the same rows.

    Returns:
      A set of places of `ways` for each dataset and then for the mean: empty where no
      way is shown to be worse than another.
    """
    if len(ways) < 2:
        return [set() for _ in range(len(ways[0].datasets) + 1 if ways else 0)]
    pairs = [(i, j) for i in range(len(ways)) for j in range(i)]
    gaps = {pair: ways[pair[0]] - ways[pair[1]] for pair in pairs}
    places = [*ways[0].datasets, ""]
    parts = {
        (pair, name): gap.of(name) if name else gap
        for pair, gap in gaps.items()
        for name in places
    }
    reach = _reach(list(parts.values()), level=_CAREFUL_LEVEL)
    unbeaten = []
    for name in places:
        beaten = set()
        for i, j in pairs:
            gap = parts[(i, j), name]
            if abs(gap.mean) > gap.reach(reach) * _null_scale(gap):
                beaten.add(j if gap.mean > 0 else i)
        unbeaten.append(set(range(len(ways))) - beaten if beaten else set())
    return unbeaten


def sign_test(first: statistics.Columns, second: statistics.Columns) -> SignTest:
    """Returns the exact test of who wins more rows: McNemar's, under one prompt.

    A row counts once, by its mean over prompts; rows of all datasets count alike.

    Raises:
      DataError: The two have not the same rows of the same tasks.
    """
    gaps = statistics.difference(first, second)
    wins = losses = 0
    for dataset in {dataset for dataset, _ in gaps}:
        _, table = statistics.table(statistics.of_dataset(gaps, dataset))
        means = np.round(np.nanmean(table, axis=1), 9)  # equal sums in another order
        wins += int((means > 0).sum())
        losses += int((means < 0).sum())
    if not wins + losses:
        return SignTest(0, 0, 1.0)
    # Twice the smaller tail of fair coins.
    tail = float(special.bdtr(min(wins, losses), wins + losses, 0.5))
    return SignTest(wins, losses, min(1.0, 2 * tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values of several tests, corrected by Holm's method.

    >>> holm([0.01, 0.5, 0.03])
    [0.03, 0.5, 0.06]
    """
    corrected = [1.0] * len(p_values)
    greatest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        greatest = max(greatest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = greatest
    return corrected


def least_difference(num_rows: Mapping[str, int], *, differ: float) -> float:
    """Returns the smallest difference that a comparison of two models is to show.

    Before anything is scored: in 8 of 10 cases, by a 95 % interval of the mean over
    datasets, each prompt of a row counted as if it said what the others say.

    Args:
      num_rows: Rows of each dataset.
      differ: The fraction of rows that only one of the two gets right, in (0, 1].

    Returns:
      Points of percent.
    """
    variance = sum(differ / number for number in num_rows.values())
    error = 100.0 * math.sqrt(variance) / len(num_rows)
    return (_NORMAL + _POWER_NORMAL) * error


def _reach(gaps: Sequence[estimates.Estimate], *, level: float = _LEVEL) -> float:
    """Returns how many standard errors hold all of some errors in most resamples."""
    widest = np.zeros(len(gaps[0].errors) if gaps else 0)
    for gap in gaps:
        if gap.scale > _LEAST_SCALE:
            widest = np.maximum(widest, np.abs(gap.error) / gap.scale)
    return max(_NORMAL, float(np.quantile(widest, level)) if len(widest) else 0.0)


def _null_scale(gap: estimates.Estimate) -> float:
    """Returns the standard error of a difference that would be zero.

    As in McNemar's test, and not as in an interval: where one model wins all of few
    rows, resamples tell of no error at all.
    """
    if math.isnan(gap.scale):
        return math.inf
    of_rows = float((gap.means**2 / np.array(gap.num_rows)).sum())
    return math.hypot(gap.scale, math.sqrt(of_rows) / len(gap.datasets))
