"""Searches find the coefficients that they are asked for, and say what they tried."""

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.merging import searching

WANTED = np.array([0.8, -0.4, 0.0])


def loss(weights):
    return float(np.square(weights - WANTED).sum())


def with_gradient(weights):
    return loss(weights), 2 * (weights - WANTED)


def test_a_greedy_soup_keeps_what_does_not_make_it_worse():
    tried = []
    values = {(0, 2): 0.9, (0, 1, 2): 0.8, (0, 2, 3): 0.9}

    def score(members):
        tried.append(members)
        return values[members]

    soup = searching.greedy_soup([0.7, 0.5, 0.8, 0.1], score)
    # 2 is the best; then 0, 1 and 3 are tried.
    assert tried == [(0, 2), (0, 1, 2), (0, 2, 3)]
    np.testing.assert_array_equal(soup.coefficients, [1, 0, 1, 1])
    assert soup.value == 0.9
    assert soup.values == (0.8, 0.9, 0.8, 0.9)


def test_a_greedy_soup_of_one_is_that_one():
    soup = searching.greedy_soup([0.3], score=lambda members: 1.0)
    np.testing.assert_array_equal(soup.coefficients, [1])


def test_both_ways_of_lorahub_find_the_least_loss_with_a_penalty():
    penalty = 0.3
    # |w - v|^2 + penalty mean |w| is least where |v| is lessened by penalty / 6.
    least = np.sign(WANTED) * np.maximum(np.abs(WANTED) - penalty / 6, 0)
    by_search = searching.lorahub(loss, 3, penalty=penalty, max_steps=150)
    by_gradient = searching.lorahub_by_gradient(
        with_gradient, 3, penalty=penalty, max_steps=300, learning_rate=0.02
    )
    np.testing.assert_allclose(by_search.coefficients, least, atol=0.02)
    np.testing.assert_allclose(by_gradient.coefficients, least, atol=0.02)
    for best in (by_search, by_gradient):
        assert best.value == pytest.approx(loss(best.coefficients))


def test_lorahub_stays_within_its_bound_and_its_steps():
    def far(weights):
        tried.append(weights.copy())
        return -float(weights.sum())

    tried = []
    best = searching.lorahub(far, 4, bound=0.5, max_steps=20, penalty=0.0)
    assert len(tried) == len(best.values) <= 20
    np.testing.assert_array_equal(tried[0], 0)
    assert np.abs(tried).max() <= 0.5
    np.testing.assert_allclose(best.coefficients, 0.5, atol=1e-6)


def test_what_a_search_finds_is_the_best_of_what_it_tried_and_the_same_again():
    first, again = (searching.lorahub(loss, 3, penalty=0.0) for _ in range(2))
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    assert first.value == min(first.values) < first.values[0]


def test_adamerging_lowers_the_entropy_of_answers_group_by_group():
    """Two experts, two groups: logits that grow with one expert in each group."""
    gains = np.array([[1.0, 0.0], [0.0, 2.0]])

    def entropy(coefficients):
        margin = (gains * coefficients).sum()
        chance = 1 / (1 + np.exp(-margin))
        value = -(chance * np.log(chance) + (1 - chance) * np.log(1 - chance))
        return value, -margin * chance * (1 - chance) * gains

    best = searching.adamerging(entropy, (2, 2), max_steps=100, learning_rate=0.01)
    assert best.value < best.values[0]
    assert best.coefficients[0, 0] > 1.0
    assert best.coefficients[1, 1] > 1.0
    np.testing.assert_array_equal(best.coefficients[[0, 1], [1, 0]], 0.3)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(errors.ConfigError, match="rows that choose"):
        searching.lorahub(lambda weights: float("nan"), 2, max_steps=5)
    with pytest.raises(errors.ConfigError, match="one or more finite"):
        searching.greedy_soup([], score=lambda members: 0.0)
