"""BM25 by hand, and votes by it."""

import math

import numpy as np
import pytest

from elm_jax.routing import texts

DOCUMENTS = ("a cat", "The dog, the dog and a cat", "birds sing")


def test_scores_are_those_of_the_formula():
    scores = texts.bm25(DOCUMENTS, ["dog", "CAT cat", "fish"], k1=1.2, b=0.75)
    mean = (2 + 7 + 2) / 3
    norm = [1.2 * (0.25 + 0.75 * length / mean) for length in (2, 7, 2)]
    dog = math.log(1 + 2.5 / 1.5) * 2 * 2.2 / (2 + norm[1])
    cat = [2 * math.log(1 + 1.5 / 2.5) * 2.2 / (1 + norm[i]) for i in (0, 1)]
    np.testing.assert_allclose(scores, [[0, dog, 0], [*cat, 0], [0, 0, 0]])


def test_without_lengths_only_occurrences_count():
    scores = texts.bm25(("x x", "x x y y y"), ["x"], b=0.0)
    assert scores[0, 0] == pytest.approx(scores[0, 1])


def test_a_query_votes_for_the_owner_of_the_likest_text():
    texts_of = {"zoo": ["birds sing"], "pets": ["a cat", "the dog"], "none": ["blue"]}
    assert texts.votes(texts_of, ["a dog", "my cat", "birds"]) == (
        ("pets", 2),
        ("zoo", 1),
    )


def test_queries_that_share_no_word_have_no_vote():
    texts_of = {"b": ["cat"], "a": ["dog"]}
    assert texts.votes(texts_of, ["fish"]) == ()
    assert texts.votes(texts_of, ["fish", "cat", "two fish"]) == (("b", 1),)
    # A word that all texts have is worth little, and is a word.
    common = {"b": ["the cat"], "a": ["the dog ran"]}
    assert texts.votes(common, ["the fish"]) == (("b", 1),)


def test_the_order_of_experts_texts_and_queries_changes_nothing():
    texts_of = {"b": ["cat sat", "cat"], "a": ["cat", "dog ran"]}
    queries = ["cat", "dog", "sat"]
    turned = {name: rows[::-1] for name, rows in reversed(texts_of.items())}
    assert texts.votes(texts_of, queries) == texts.votes(turned, queries[::-1])
    # A tie goes to the first by name.
    assert texts.votes(texts_of, queries)[0] == ("a", 2)
