"""Successive halving by hand, and its laws."""

import numpy as np
import pytest

from elm_jax.routing import halving

ROWS = tuple(range(100, 116))


def world(chances, seed=0):
    """Returns names, what scores experts of such chances, its log, and the truth."""
    rng = np.random.default_rng(seed)
    names = [f"e{number}" for number in range(len(chances))]
    right = rng.random((len(chances), len(ROWS))) < np.array(chances)[:, None]
    share = rng.random(right.shape) / 10 + np.array(chances)[:, None] / 2
    calls = []

    def score(of, rows):
        calls.append((tuple(of), tuple(rows)))
        places = np.ix_([names.index(n) for n in of], [r - ROWS[0] for r in rows])
        return np.stack([right[places].astype(float), share[places]])

    return names, score, calls, right


def test_halves_see_twice_as_many_rows_by_hand():
    names, score, calls, right = world([1, 0, 0, 0, 0])
    halved = halving.halve(names, ROWS, score, first_rows=4)
    assert [len(of) for of, _ in calls] == [5, 3, 2]
    assert [rows for _, rows in calls] == [ROWS[:4], ROWS[4:8], ROWS[8:]]
    assert halved.num_scored == 5 * 4 + 3 * 4 + 2 * 8
    assert halved.order[0] == "e0"
    assert sorted(halved.order) == names
    shares = dict(zip(halved.order, halved.shares, strict=True))
    seen = {name: len(ROWS) for name in halved.order[:2]}
    seen |= dict.fromkeys(halved.order[2:3], 8) | dict.fromkeys(halved.order[3:], 4)
    for row, name in enumerate(names):
        assert shares[name] == right[row, : seen[name]].mean()


def test_with_all_rows_at_once_it_is_the_best_on_them():
    names, score, calls, right = world([0.3, 0.6, 0.5, 0.4])
    halved = halving.halve(names, ROWS, score, first_rows=len(ROWS))
    assert len(calls) == 1
    means = right.mean(axis=1)
    assert means[names.index(halved.order[0])] == means.max()
    values = [means[names.index(name)] for name in halved.order]
    assert values == sorted(values, reverse=True)


def test_equally_right_experts_are_compared_by_the_right_answers_probability():
    def score(of, rows):
        share = {"a": 0.4, "b": 0.9, "c": 0.4}
        shares = np.array([[share[name]] * len(rows) for name in of])
        return np.stack([np.ones(shares.shape), shares])

    halved = halving.halve(["c", "b", "a"], ROWS, score, first_rows=16)
    assert halved.order == ("b", "a", "c")  # equal ones by name


def test_the_order_of_names_changes_nothing():
    names, score, _, _ = world([0.5] * 6)
    forwards = halving.halve(names, ROWS, score, first_rows=2)
    backwards = halving.halve(names[::-1], ROWS, score, first_rows=2)
    assert forwards == backwards


def test_one_expert_is_scored_once_and_taken():
    _, score, calls, _ = world([0.5])
    halved = halving.halve(["e0"], ROWS, score, first_rows=4)
    assert halved.order == ("e0",)
    assert len(calls) == 1


@pytest.mark.parametrize("first_rows", [2, 16])
def test_of_experts_of_known_chances_the_best_is_found_more_often_than_by_chance(
    first_rows,
):
    """200 worlds of six experts, of chances 0.2 and one of 0.8."""
    hits = 0
    for seed in range(200):
        chances = [0.2] * 6
        chances[seed % 6] = 0.8
        names, score, _, _ = world(chances, seed)
        order = halving.halve(names, ROWS, score, first_rows=first_rows).order
        hits += order[0] == names[seed % 6]
    # By binomial counts it is 99.9 % with all rows; a first look at two loses some.
    assert hits / 200 > {2: 0.85, 16: 0.97}[first_rows]
