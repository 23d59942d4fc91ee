"""How far means of more and more experts pull is what can be computed by hand."""

import numpy as np
import pytest

from elm_jax.merging import comparing, growing
from tests.merging import kinds

RNG = np.random.default_rng(2)


def grown(changes, order):
    (growth,) = growing.grown([np.asarray(changes, float)], [order])
    return growth


def by_definition(changes):
    """Of all experts: `sum |(M - D)' D|^2 / sum |D' D|^2`."""
    mean = np.mean(changes, axis=0)
    lost = sum(np.square((mean - change).T @ change).sum() for change in changes)
    return lost / sum(np.square(change.T @ change).sum() for change in changes)


def test_equal_experts_lose_nothing_however_many():
    growth = grown([RNG.normal(size=(5, 3))] * 6, range(6))
    np.testing.assert_allclose(growth.pulls, 0.0, atol=1e-15)


def test_experts_that_read_other_inputs_lose_all_but_a_kth_of_each():
    """Of k, `(1 - 1 / k)^2` of the squares: 0, 1/4, 4/9, 9/16."""
    changes = np.zeros((4, 4, 3))
    changes[range(4), range(4)] = RNG.normal(size=(4, 3))
    growth = grown(changes, (2, 0, 3, 1))
    assert growth.order == (2, 0, 3, 1)
    np.testing.assert_allclose(growth.pulls, [0.0, 1 / 4, 4 / 9, 9 / 16])


def test_opposite_experts_lose_all_and_a_third_like_the_first_is_nearer():
    """Of D, -D, D the mean is D / 3: 4/9, 16/9 and 4/9 of the squares, in the mean."""
    change = RNG.normal(size=(3, 2))
    growth = grown([change, -change, change], range(3))
    np.testing.assert_allclose(growth.pulls, [0.0, 1.0, 24 / 27])


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 3, 20), (4, 9, 9)])
def test_pulls_of_an_order_are_those_of_its_first_experts(shape):
    changes = RNG.normal(size=shape)
    order = growing.at_random(shape[0], 7)
    growth = grown(changes, order)
    for count in range(1, shape[0] + 1):
        expected = by_definition(changes[[*order[:count]]])
        assert growth.pulls[count - 1] == pytest.approx(expected, abs=1e-12)


def test_layers_count_by_how_much_pairs_change_in_them():
    """Norms of 1 and 2, 3 and 4 and 5: pairs have 2 and, in the mean, 47 / 3."""
    first, second = np.zeros((2, 3, 1, 1))
    first[:2, 0, 0], second[:, 0, 0] = [1, 2], [3, 4, -5]
    (growth,) = growing.grown([first, second], [range(3)])
    counts = {2: (2, 12), 3: (2 / 3, 47 / 3)}
    for count, (first_weight, second_weight) in counts.items():
        pulls = [by_definition(each[:count]) for each in (first, second)]
        expected = (first_weight * pulls[0] + second_weight * pulls[1]) / (
            first_weight + second_weight
        )
        assert growth.pulls[count - 1] == pytest.approx(expected)


def test_the_most_alike_begin_with_the_best_pair_and_go_on_by_mean_forecasts():
    forecast = np.array(
        [
            [0.0, 0.5, 0.2, 0.9],
            [0.5, 0.0, 0.6, 0.3],
            [0.2, 0.6, 0.0, 0.4],
            [0.9, 0.3, 0.4, 0.0],
        ]
    )
    assert growing.most_alike(forecast) == (0, 2, 1, 3)  # 0.55 before 0.65
    forecast[1] = forecast[:, 1] = np.nan
    assert growing.most_alike(forecast) == (0, 2, 3, 1)
    assert growing.most_alike(np.full((3, 3), np.nan)) == (0, 1, 2)


def test_drawn_experts_are_those_of_the_seed():
    orders = {growing.at_random(9, seed) for seed in range(5)}
    assert len(orders) == 5
    assert all(sorted(order) == [*range(9)] for order in orders)
    assert growing.at_random(9, 3) in orders


@pytest.mark.parametrize("kind", kinds.SHAPES)
def test_two_of_the_most_alike_are_the_pair_of_the_best_forecast(kind):
    sample = kinds.sample(kind)
    comparison = comparing.compare(
        sample.experts, sample.start, sample.beside, random_seed=4
    )
    pulls = comparison.alike.pulls
    if kind in ("ia3", "norms"):  # without matrices
        assert np.isnan(comparison.forecast).all()
        assert np.isnan(pulls).all()
        return
    apart = comparison.forecast + np.diag([np.inf] * 3)
    assert pulls[0] == 0.0
    assert pulls[1] == pytest.approx(apart.min())
    assert comparison.alike.order[:2] == np.unravel_index(apart.argmin(), (3, 3))
    assert comparison.drawn.order == growing.at_random(3, 4)
    first, second = comparison.drawn.order[:2]
    assert comparison.drawn.pulls[1] == pytest.approx(apart[first, second])
    # Of all, the order does not matter.
    assert comparison.drawn.pulls[2] == pytest.approx(pulls[2])
