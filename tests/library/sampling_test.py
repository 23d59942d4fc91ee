"""Keys, queries and evaluation rows never share a row, and never change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_jax import errors
from elm_jax.library import sampling


@given(
    num_rows=st.integers(3, 400),
    seed=st.integers(0, 2**32),
    num_keys=st.integers(0, 150),
    num_queries=st.integers(0, 50),
)
def test_the_parts_are_disjoint_and_together_are_all_rows(
    num_rows, seed, num_keys, num_queries
):
    counts = {"num_keys": num_keys, "num_queries": num_queries}
    try:
        parts = sampling.divide_rows(num_rows, seed=seed, **counts)
    except errors.DataError:
        assert num_queries
        assert num_rows - num_keys < 2
        return
    rows = np.concatenate([parts.keys, parts.queries, parts.evaluation])
    assert sorted(rows.tolist()) == list(range(num_rows))
    assert len(parts.keys) == min(num_keys, num_rows)
    assert len(parts.queries) == min(num_queries, (num_rows - len(parts.keys)) // 2)
    again = sampling.divide_rows(num_rows, seed=seed, **counts)
    for part, part_again in zip(
        (parts.keys, parts.queries, parts.evaluation),
        (again.keys, again.queries, again.evaluation),
        strict=True,
    ):
        np.testing.assert_array_equal(part, part_again)


def test_the_order_of_a_seed_is_the_same_on_every_machine():
    # A change here changes the keys and queries of every library ever made.
    assert sampling.order_rows(8, seed=42).tolist() == [7, 1, 6, 4, 3, 5, 0, 2]


def test_seeds_give_different_orders():
    orders = {tuple(sampling.order_rows(20, seed=seed)) for seed in range(10)}
    assert len(orders) == 10


def test_rows_added_later_keep_the_order_of_earlier_ones():
    long = sampling.order_rows(50, seed=7)
    np.testing.assert_array_equal(long[long < 30], sampling.order_rows(30, seed=7))


def test_keys_are_drawn_from_all_of_the_split():
    keys = sampling.divide_rows(10000, seed=42, num_keys=100).keys
    assert 3000 < np.mean(keys) < 7000
    assert len(set(keys.tolist())) == 100


@pytest.mark.parametrize(("num_rows", "part"), [(0, "keys"), (1, "queries")])
def test_a_split_without_a_row_to_give_is_refused(num_rows, part):
    with pytest.raises(errors.DataError, match=f"none is left for {part}"):
        sampling.divide_rows(num_rows, seed=0, **{f"num_{part}": 1})


@given(num_keys=st.integers(0, 300), num_tasks=st.integers(1, 40))
def test_shares_add_up_and_differ_by_one_at_most(num_keys, num_tasks):
    shares = sampling.share_keys(num_keys, num_tasks)
    assert sum(shares) == num_keys
    assert max(shares) - min(shares) <= 1
