"""Rules of votes beside the paper's, which is one of them."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.library import index, retrieval, voting

SETTINGS = index.IndexSettings(embedder="e", text_format="instance", num_keys=2, seed=0)


def library(**keys):
    """An index of keys, rows of numbers by expert."""
    experts = tuple(index.Expert(name, len(own), (), "") for name, own in keys.items())
    owners = np.repeat(np.arange(len(keys), dtype=np.int32), [*map(len, keys.values())])
    rows = np.concatenate([np.asarray(own, np.float32) for own in keys.values()])
    return index.Index(SETTINGS, experts, rows, owners)


ONE = library(a=[[1, 0], [0, 0.5]], b=[[0.9, 0.1], [0.8, 0]], c=[[-1, -1], [0, 1]])
QUERIES = np.array([[1, 0], [0, 1], [2, 0]], np.float32)


def test_one_key_for_each_query_is_the_papers_rule():
    rng = np.random.default_rng(0)
    for _ in range(20):
        keys = {name: rng.normal(size=(5, 3)) for name in "dbca"}
        keys["e"] = keys["b"]  # ties go to the first by name
        opened = library(**keys)
        queries = rng.normal(size=(9, 3)).astype(np.float32)
        paper = retrieval.retrieve(opened, queries)
        own = voting.ranked(opened, queries, num_nearest=1, by="votes")
        assert own == tuple((name, float(n)) for name, n in paper.votes)
        own = voting.ranked(opened, queries, num_nearest=1, by="similarity")
        assert [name for name, _ in own] == [n for n, _ in paper.ranked("similarity")]


def test_several_keys_for_each_query_each_have_a_vote():
    found = voting.ranked(ONE, QUERIES, num_nearest=2, by="votes")
    assert found == (("a", 3.0), ("b", 2.0), ("c", 1.0))


def test_similar_keys_weigh_more_and_unlike_ones_nothing():
    found = dict(voting.ranked(ONE, QUERIES, num_nearest=6, by="similarity"))
    assert found == pytest.approx({"a": 1 + 0.5 + 2, "b": 5.1 + 0.1, "c": 1})


def test_experts_that_may_not_be_retrieved_have_no_say():
    found = voting.ranked(ONE, QUERIES, num_nearest=2, by="votes", experts=["b", "c"])
    assert found == (("b", 5.0), ("c", 1.0))
    with pytest.raises(errors.LibraryError, match="experts without keys: d"):
        voting.ranked(ONE, QUERIES, num_nearest=2, by="votes", experts=["d"])


def test_the_order_of_keys_says_nothing():
    turned = dataclasses.replace(
        ONE, keys=ONE.keys[::-1], owners=ONE.owners[::-1].copy()
    )
    for by in ("votes", "similarity"):
        found = [
            voting.ranked(one, QUERIES, num_nearest=3, by=by) for one in (ONE, turned)
        ]
        assert found[0] == found[1]


def test_means_of_keys_are_compared_with_the_mean_of_queries():
    found = dict(voting.ranked_by_means(ONE, QUERIES))
    asked = np.array([1, 1 / 3]) / np.hypot(1, 1 / 3)
    means = {"a": (0.5, 0.25), "b": (0.85, 0.05), "c": (-0.5, 0)}
    for name, mean in means.items():
        assert found[name] == pytest.approx(mean @ asked / np.hypot(*mean), rel=1e-5)
    assert [*found] == ["a", "b", "c"]
    few = voting.ranked_by_means(ONE, QUERIES, experts=["c", "b"])
    assert few == (("b", found["b"]), ("c", found["c"]))


def test_a_mean_of_zero_is_like_nothing():
    opened = library(a=[[1, 0], [-1, 0]], b=[[0, -1]])
    assert voting.ranked_by_means(opened, QUERIES) == (("a", 0.0), ("b", -0.316228))
