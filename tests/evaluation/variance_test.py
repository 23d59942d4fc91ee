import math

import numpy as np
import pytest

from elm_jax.evaluation import estimates, statistics, variance


def world(rng, *, row=0.0, prompt=0.0, training=0.0, rest=0.0, size=(4, 200, 6)):
    """Results of trainings on one dataset: sums of effects of these variances."""
    table = (
        math.sqrt(row) * rng.normal(size=(1, size[1], 1))
        + math.sqrt(prompt) * rng.normal(size=(1, 1, size[2]))
        + math.sqrt(training) * rng.normal(size=(size[0], 1, 1))
        + math.sqrt(rest) * rng.normal(size=size)
    )
    return [
        {
            ("d", f"d_{place}"): statistics.Column(
                np.arange(size[1]), training[:, place]
            )
            for place in range(size[2])
        }
        for training in table
    ]


def test_shares_of_the_variance_are_those_that_made_it():
    rng = np.random.default_rng(0)
    shares = [
        variance.shares(world(rng, row=4.0, prompt=1.0, training=2.0, rest=3.0))
        for _ in range(200)
    ]
    mean = np.mean(shares, axis=0)
    # Shares are ratios of few draws: their means lie near, not at, 40, 10, 20, 30.
    assert mean[:4] == pytest.approx([42, 11, 16, 31], abs=3)
    squares = np.mean(np.square(shares), axis=0)
    assert squares[4] == pytest.approx(4 / 200 + 3 / (4 * 200 * 6), rel=0.1)
    assert squares[5] == pytest.approx(1 / 6 + 3 / (4 * 200 * 6), rel=0.15)
    assert squares[6] == pytest.approx(2 / 4, rel=0.15)


def test_one_training_and_one_prompt_have_no_share():
    shares = variance.shares(world(np.random.default_rng(0), row=1.0, size=(1, 50, 1)))
    assert shares.row == pytest.approx(100.0)
    assert math.isnan(shares.prompt)
    assert math.isnan(shares.training)


def test_the_error_by_rows_is_that_of_the_interval():
    trainings = world(
        np.random.default_rng(0), row=2.0, prompt=5.0, rest=2.0, size=(1, 400, 3)
    )
    shares = variance.shares(trainings)
    of_rows = estimates.estimate(trainings, estimates.Draws()).scale
    assert shares.row_error == pytest.approx(of_rows, rel=0.1)


def test_rows_that_a_prompt_lacks_are_left_out():
    (training,) = world(np.random.default_rng(0), row=1.0, size=(1, 30, 2))
    ids, values = training["d", "d_1"]
    training["d", "d_1"] = statistics.Column(ids[:20], values[:20])
    assert variance.shares([training]).row == pytest.approx(100.0)
    training["d", "d_1"] = statistics.Column(ids[:1], values[:1])
    assert variance.shares([training]) is None


@pytest.mark.parametrize("number", [2, 3, 5])
def test_trainings_widen_the_interval_by_students_t(number):
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(300):
        several = world(rng, row=1.0, training=1.0, rest=1.0, size=(number, 50, 2))
        draws = estimates.Draws(seed=trial, num_resamples=500)
        of_trainings = estimates.estimate(several, draws, who="w").interval
        held += of_trainings.low <= 0.0 <= of_trainings.high
    assert 0.92 <= held / 300 <= 0.99


def test_the_interval_of_equal_trainings_is_that_of_one():
    (training,) = world(np.random.default_rng(0), row=1.0, size=(1, 50, 2))
    draws = estimates.Draws()
    alone = estimates.estimate([training], draws)
    three = estimates.estimate([training, training, training], draws)
    np.testing.assert_allclose(three.errors, alone.errors)
    assert (alone.num_trainings, three.num_trainings) == (1, 3)
