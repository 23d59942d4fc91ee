"""Intervals of few rows and of few trainings are those of Student and Welch."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from elm_jax.evaluation import comparisons, estimates, statistics

DRAWS = estimates.Draws(num_resamples=20_000)


def columns(values):
    return {("d", "d_p"): statistics.Column(np.arange(len(values)), np.array(values))}


def trained(*scores, num_rows=50):
    """An estimate of trainings that have these scores on all rows."""
    of_each = [columns([score] * num_rows) for score in scores]
    return estimates.estimate(of_each, DRAWS, who=f"{scores}")


def test_the_interval_of_few_rows_is_students():
    values = np.random.default_rng(0).normal(50, 10, 12)
    interval = estimates.estimate([columns(values)], DRAWS).interval
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.6)
    # Resamples alone would give less than 0.88 of the width.
    assert interval.high - interval.low > 0.95 * (expected[1] - expected[0])


def test_the_interval_of_three_trainings_is_students():
    scores = (40.0, 44.0, 51.0)
    interval = trained(*scores).interval
    expected = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((40.0, 44.0, 51.0), (30.0, 31.0, 38.0)),
        ((40.0, 44.0, 51.0), (30.0, 30.1, 30.2)),
        ((40.0, 44.0, 51.0, 43.0, 48.0), (30.0, 31.0, 38.0)),
    ],
)
def test_the_interval_of_a_difference_of_trainings_is_welchs(first, second):
    gap = trained(*first) - trained(*second)
    test = stats.ttest_ind(first, second, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (gap.interval.low, gap.interval.high) == pytest.approx(expected, abs=0.5)
    (only,) = comparisons.against(trained(*second), {"": trained(*first)}).values()
    both = (only.simultaneous.low, only.simultaneous.high)
    assert both == pytest.approx(expected, abs=0.5)


def test_draws_of_each_training_vary_as_trainings_do():
    draws = estimates.Draws(num_resamples=20_000)
    scores = np.array([40.0, 44.0, 51.0])
    drawn = draws.each_training("one", 3) @ (scores - scores.mean())
    assert drawn.std(axis=0) == pytest.approx(np.full(3, scores.std(ddof=1)), rel=0.02)
    mean = draws.trainings("one", 3) @ (scores - scores.mean())
    np.testing.assert_allclose(drawn.mean(axis=1), mean)
    assert mean.std() == pytest.approx(stats.sem(scores), rel=0.02)


def test_trainings_that_are_shared_have_no_error_in_a_difference():
    score = trained(40.0, 44.0, 51.0)
    assert (score - score).interval.low == (score - score).interval.high == 0.0


def test_intervals_end_where_scores_do():
    interval = trained(93.0, 100.0, 100.0).interval
    assert interval.low < 93 < interval.high == 100.0
    gap = trained(93.0, 100.0, 100.0) - trained(0.0, 7.0, 0.0)
    assert gap.interval.high == 100.0
    (only,) = comparisons.against(
        trained(0.0, 7.0, 0.0), {"": trained(93.0, 100.0, 100.0)}
    ).values()
    assert only.simultaneous.high == 100.0


def test_mirrored_intervals_end_where_errors_are_subtracted():
    skewed = np.append(np.full(60, -1.0), np.full(40, 4.0))[:, np.newaxis]
    plain = estimates.Estimate(("a",), np.array([50.0]), skewed, (10**9,), (0,))
    mirrored = dataclasses.replace(plain, is_mirrored=True)
    for score, ends in ((plain, (49, 54)), (mirrored, (46, 51))):
        assert (score.interval.low, score.interval.high) == pytest.approx(
            ends, rel=1e-6
        )
    assert mirrored.of("a").is_mirrored
    gap = mirrored - dataclasses.replace(plain, errors=skewed * 0)
    assert (gap.interval.low, gap.interval.high) == pytest.approx((-4, 1), rel=1e-6)
