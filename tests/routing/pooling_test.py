"""Pools of answers: what becomes of the scores of several experts."""

import math

import numpy as np
import pytest
from scipy import special

from elm_jax import errors
from elm_jax.routing import behaviour, pooling


def scores_of(log_probs, is_answer=None):
    log_probs = np.asarray(log_probs, np.float64)
    rows = log_probs.shape[1:]
    is_answer = np.ones(rows, bool) if is_answer is None else np.asarray(is_answer)
    return behaviour.ChoiceScores(
        log_probs, np.ones(rows, int), is_answer, np.zeros(rows)
    )


def test_a_pool_is_the_weighted_geometric_mean_of_probabilities():
    """By hand: sqrt(0.8 * 0.2) = 0.4 and sqrt(0.1 * 0.4) = 0.2."""
    log_probs = [[np.log([0.8, 0.1])], [np.log([0.2, 0.4])]]
    (row,) = pooling.pooled([0.5, 0.5], log_probs)
    np.testing.assert_allclose(np.exp(row), [0.4, 0.2], rtol=1e-12)


def test_an_expert_of_weight_one_has_its_own_scores():
    random = np.random.default_rng(0)
    log_probs = [[random.normal(size=n) for n in (2, 3, 4)] for _ in range(3)]
    for row, alone in zip(
        pooling.pooled([0, 1, 0], log_probs), log_probs[1], strict=True
    ):
        np.testing.assert_array_equal(row, alone)


def test_an_expert_that_prefers_no_answer_changes_no_choice():
    random = np.random.default_rng(1)
    sure = [random.normal(size=4) for _ in range(20)]
    flat = [np.full(4, random.normal()) for _ in range(20)]
    for row, alone in zip(pooling.pooled([0.2, 0.8], [sure, flat]), sure, strict=True):
        assert row.argmax() == alone.argmax()


def test_experts_that_scored_other_rows_are_refused():
    with pytest.raises(errors.DataError, match="2 different lists of rows"):
        pooling.pooled([1, 1], [[np.zeros(2)], [np.zeros(3)]])
    with pytest.raises(errors.DataError, match="1 weights"):
        pooling.pooled([1], [[np.zeros(2)], [np.zeros(2)]])


def test_the_preference_of_a_place_is_its_mean_over_rows():
    """By hand: means of the pool are -2 and -4, half of their difference each."""
    log_probs = scores_of([[[-1.0, -5.0], [-3.0, -3.0]], [[-3.0, -5.0], [-1.0, -3.0]]])
    assert pooling.place_means([0.5, 0.5], log_probs) == pytest.approx((1.0, -1.0))


def test_rows_of_unlike_choices_tell_no_preference():
    is_answer = [[True, True, True], [True, True, False]]
    log_probs = scores_of(np.zeros((1, 2, 3)), is_answer)
    assert pooling.place_means([1.0], log_probs) == ()


def test_a_model_that_only_prefers_a_place_is_at_chance_without_it():
    """A simulation: scores of true answers, and 3 nats more for the first place."""
    random = np.random.default_rng(2)
    labels = random.integers(2, size=4000)
    signal = random.normal(size=(4000, 2))
    signal[np.arange(4000), labels] += 1.0
    biased = signal + np.array([3.0, 0.0])
    means = pooling.place_means([1.0], scores_of([biased[:32]]))
    repaired = [pooling.without_preference(row, means).argmax() for row in biased]
    raw = (biased.argmax(axis=1) == labels).mean()
    # Of the sum of two normal numbers, P(N(1, sqrt(2)) > 0) = 0.760; 4,000 rows have a
    # standard error of 0.007, and 32 rows err by some 0.25 nats in the preference.
    best = special.ndtr(1 / math.sqrt(2))
    assert raw < 0.57
    assert (np.array(repaired) == labels).mean() == pytest.approx(best, abs=0.025)


def test_choices_that_no_model_tells_apart_stay_alike():
    row = pooling.without_preference(np.array([-1.0, -1.0, -2.0]), (0.6, -0.2, -0.4))
    assert row[0] == row[1]
    np.testing.assert_allclose(row, [-1.2, -1.2, -1.6])


@pytest.mark.parametrize("num_choices", [2, 3, 5, 7, 11])
def test_choices_that_all_experts_score_alike_stay_alike_at_every_place(num_choices):
    """A product of matrices gives equal columns other last bits, by their place."""
    random = np.random.default_rng(3)
    for _ in range(200):
        each = random.normal(-20, 5, size=(20, num_choices)).astype(np.float32)
        each[:, -1] = each[:, 0]
        weights = random.dirichlet(np.ones(20))
        (row,) = pooling.pooled(weights, [[of_expert] for of_expert in each])
        assert row[0] == row[-1]
        row = pooling.without_preference(row, random.normal(size=num_choices))
        assert row[0] == row[-1]


def test_a_row_of_another_number_of_choices_stays_as_it_is():
    row = np.array([-1.0, -2.0, -3.0])
    assert pooling.without_preference(row, (1.0, -1.0)) is row
    assert pooling.without_preference(row, ()) is row
