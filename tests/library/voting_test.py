"""Rules of votes beside the paper's, which is one of them."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.library import retrieval, voting
from tests.library.keys import ONE, QUERIES, library


def test_one_key_for_each_query_is_the_papers_rule():
    rng = np.random.default_rng(0)
    for _ in range(20):
        keys = {name: rng.normal(size=(5, 3)) for name in "dbca"}
        keys["e"] = keys["b"]  # ties go to the first by name
        opened = library(**keys)
        queries = rng.normal(size=(9, 3)).astype(np.float32)
        paper = retrieval.retrieve(opened, queries)
        ranked = voting.ranked(opened, queries, num_nearest=1, by="votes")
        assert ranked == tuple((name, float(n)) for name, n in paper.votes)
        ranked = voting.ranked(opened, queries, num_nearest=1, by="similarity")
        assert [name for name, _ in ranked] == [
            n for n, _ in paper.ranked("similarity")
        ]


def test_several_keys_for_each_query_each_have_a_vote():
    ranked = voting.ranked(ONE, QUERIES, num_nearest=2, by="votes")
    assert ranked == (("a", 3.0), ("b", 2.0), ("c", 1.0))


def test_similar_keys_weigh_more_and_unlike_ones_nothing():
    ranked = dict(voting.ranked(ONE, QUERIES, num_nearest=6, by="similarity"))
    assert ranked == pytest.approx({"a": 1 + 0.5 + 2, "b": 5.1 + 0.1, "c": 1})


def test_experts_that_may_not_be_retrieved_have_no_say():
    ranked = voting.ranked(ONE, QUERIES, num_nearest=2, by="votes", experts=["b", "c"])
    assert ranked == (("b", 5.0), ("c", 1.0))
    with pytest.raises(errors.LibraryError, match="experts without keys: d"):
        voting.ranked(ONE, QUERIES, num_nearest=2, by="votes", experts=["d"])


def test_the_order_of_keys_says_nothing():
    turned = dataclasses.replace(
        ONE, keys=ONE.keys[::-1], owners=ONE.owners[::-1].copy()
    )
    for by in ("votes", "similarity"):
        ranked = [
            voting.ranked(keys, QUERIES, num_nearest=3, by=by) for keys in (ONE, turned)
        ]
        assert ranked[0] == ranked[1]


def test_means_of_keys_are_compared_with_the_mean_of_queries():
    values = dict(voting.ranked_by_means(ONE, QUERIES))
    mean_query = np.array([1, 1 / 3]) / np.hypot(1, 1 / 3)
    means = {"a": (0.5, 0.25), "b": (0.85, 0.05), "c": (-0.5, 0)}
    for name, mean in means.items():
        assert values[name] == pytest.approx(
            mean @ mean_query / np.hypot(*mean), rel=1e-5
        )
    assert [*values] == ["a", "b", "c"]
    few = voting.ranked_by_means(ONE, QUERIES, experts=["c", "b"])
    assert few == (("b", values["b"]), ("c", values["c"]))


def test_a_mean_of_zero_is_like_nothing():
    opened = library(a=[[1, 0], [-1, 0]], b=[[0, -1]])
    assert voting.ranked_by_means(opened, QUERIES) == (("a", 0.0), ("b", -0.316228))
