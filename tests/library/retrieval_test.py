"""Exact nearest keys, majority votes, ties by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_jax import errors
from elm_jax.library import index, retrieval


def make_index(keys_by_expert):
    """An index of given vectors."""
    experts = tuple(
        index.IndexEntry(name, len(keys), (), "")
        for name, keys in keys_by_expert.items()
    )
    counts = [expert.num_keys for expert in experts]
    return index.Index(
        settings=index.IndexSettings(embedder="bag"),
        experts=experts,
        keys=np.concatenate(
            [np.asarray(k, np.float32) for k in keys_by_expert.values()]
        ),
        owners=np.repeat(np.arange(len(experts), dtype=np.int32), counts),
    )


EAST, NORTH, UP = np.eye(3, dtype=np.float32)


@st.composite
def cases(draw):
    """Integer vectors: inner products are exact and ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    names = draw(st.permutations([f"e{n}" for n in range(draw(st.integers(1, 6)))]))
    keys = {
        name: rng.integers(-2, 3, size=(int(rng.integers(1, 5)), 4)) for name in names
    }
    queries = rng.integers(-2, 3, size=(draw(st.integers(1, 40)), 4))
    return keys, queries.astype(np.float32)


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_votes_equal_those_of_the_definition(case):
    keys, queries = case
    retrieved = retrieval.retrieve(make_index(keys), queries)
    nearest, num_ties = [], 0
    for query in queries:
        best = {name: max(key @ query for key in keys[name]) for name in keys}
        winners = [name for name in sorted(keys) if best[name] == max(best.values())]
        nearest.append(winners[0])
        num_ties += len(winners) > 1
    assert retrieved.nearest == tuple(nearest)
    assert retrieved.num_ties == num_ties
    assert sum(count for _, count in retrieved.votes) == len(queries)
    assert retrieved.votes == tuple(
        sorted(
            ((name, nearest.count(name)) for name in set(nearest)),
            key=lambda item: (-item[1], item[0]),
        )
    )
    assert retrieved.expert == retrieved.top(1)[0] == retrieved.votes[0][0]


@given(case=cases(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_order_of_queries_and_experts_changes_no_vote(case, seed):
    keys, queries = case
    rng = np.random.default_rng(seed)
    names = list(keys)
    rng.shuffle(names)
    shuffled = {name: keys[name] for name in names}
    retrieved = retrieval.retrieve(make_index(keys), queries)
    in_another_order = retrieval.retrieve(
        make_index(shuffled), rng.permutation(queries)
    )
    assert in_another_order.votes == retrieved.votes


@given(case=cases())
@settings(max_examples=30, deadline=None)
def test_an_expert_left_out_is_as_if_it_had_no_keys(case):
    keys, queries = case
    if len(keys) < 2:
        return
    left = sorted(keys)[1:]
    retrieved = retrieval.retrieve(make_index(keys), queries, experts=left)
    without_keys = retrieval.retrieve(make_index({n: keys[n] for n in left}), queries)
    assert retrieved.votes == without_keys.votes
    assert retrieved.num_ties == without_keys.num_ties


def test_equal_votes_are_settled_by_name():
    library_index = make_index({"zoo": [EAST], "ant": [NORTH], "bee": [UP]})
    retrieved = retrieval.retrieve(library_index, np.stack([EAST, NORTH, UP, UP]))
    assert retrieved.votes == (("bee", 2), ("ant", 1), ("zoo", 1))
    assert retrieved.top(2) == ("bee", "ant")
    assert retrieved.top(9) == ("bee", "ant", "zoo")


def test_duplicate_keys_vote_for_the_first_name_and_are_counted():
    library_index = make_index({"b": [EAST, NORTH], "a": [EAST], "c": [EAST, UP]})
    retrieved = retrieval.retrieve(library_index, np.stack([EAST, UP]))
    assert retrieved.nearest == ("a", "c")
    assert retrieved.num_ties == 1
    np.testing.assert_array_equal(retrieved.scores, [1, 1])


def test_duplicates_within_an_expert_are_no_tie():
    retrieved = retrieval.retrieve(make_index({"a": [EAST, EAST]}), EAST[None])
    assert retrieved.votes == (("a", 1),)
    assert retrieved.num_ties == 0


def test_rounding_noise_does_not_choose_an_expert():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(20, 384)).astype(np.float32)
    noise = keys + rng.normal(size=keys.shape).astype(np.float32) * 3e-8
    for scale in (1e-3, 1.0, 1e3):
        library_index = make_index({"b": noise * np.float32(scale), "a": keys * scale})
        assert retrieval.retrieve(library_index, keys).votes == (("a", 20),)


@pytest.mark.parametrize("num_queries", [1, 2, 31, 32, 33, 100])
def test_any_number_of_queries_gets_an_expert(num_queries):
    library_index = make_index({"a": [EAST], "b": [NORTH]})
    retrieved = retrieval.retrieve(library_index, np.tile(NORTH, (num_queries, 1)))
    assert retrieved.votes == (("b", num_queries),)


def test_queries_in_chunks_vote_as_queries_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    library_index = make_index({n: rng.normal(size=(10, 8)) for n in "abc"})
    queries = rng.normal(size=(50, 8)).astype(np.float32)
    at_once = retrieval.retrieve(library_index, queries)
    monkeypatch.setattr(retrieval, "MAX_SCORES", 90)
    in_chunks = retrieval.retrieve(library_index, queries)
    assert in_chunks.nearest == at_once.nearest
    np.testing.assert_allclose(in_chunks.scores, at_once.scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((0, 3), np.float32), r"shape \(0, 3\)"),
        (np.zeros((2, 4), np.float32), r"\[one or more, 3\]"),
        (np.zeros(3, np.float32), r"shape \(3,\)"),
        (np.full((1, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_bad_queries_are_refused(queries, message):
    with pytest.raises(errors.LibraryError, match=message):
        retrieval.retrieve(make_index({"a": [EAST]}), queries)


def test_experts_without_keys_are_refused_by_name():
    library_index = make_index({"a": [EAST]})
    with pytest.raises(errors.LibraryError, match="without keys: z"):
        retrieval.retrieve(library_index, EAST[None], experts=["a", "z"])
    with pytest.raises(errors.LibraryError, match="no expert"):
        retrieval.retrieve(library_index, EAST[None], experts=[])


def test_texts_find_the_expert_that_speaks_like_them(tmp_path, make_embedder):
    def new(name, texts):
        used = index.RowsUsed(name, "train", tuple(range(len(texts))))
        return index.NewExpert(name, texts, (used,))

    embedder = make_embedder()
    experts = [
        new("weather", ["rain and snow today", "sun tomorrow"]),
        new("food", ["bread and butter", "soup today"]),
    ]
    library_index = index.extend(
        tmp_path, experts, embedder=embedder, settings=index.IndexSettings("bag")
    )
    retrieved = retrieval.retrieve_for_texts(
        library_index,
        ["snow and rain", "butter and bread", "hot soup"],
        embedder=embedder,
    )
    assert retrieved.votes == (("food", 2), ("weather", 1))
    with pytest.raises(errors.LibraryError, match="embedded by sack"):
        retrieval.retrieve_for_texts(
            library_index, ["a"], embedder=make_embedder("sack")
        )
