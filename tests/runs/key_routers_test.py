"""Routers by keys: what they take, and that an evaluation scores it."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import row_lines
from elm_jax.library import voting
from elm_jax.merging import averages
from elm_jax.runs import key_routers
from tests.library.keys import ONE, QUERIES
from tests.runs import scored, toy


@pytest.fixture
def library_question(tmp_path):
    """A question of three rows to a library with two keys of each expert."""
    return toy.question(tmp_path)._replace(opened=ONE, vectors=QUERIES)


def test_the_expert_of_most_near_keys_or_of_the_likest_mean_is_taken(library_question):
    nearest = key_routers.ByKeys(num_nearest=2)
    assert nearest.pick(library_question).experts == ("a",)  # 3 of 6 votes
    similar = key_routers.ByKeys(num_nearest=6, by="similarity")
    assert similar.pick(library_question).experts == ("b",)
    assert key_routers.ByKeys(how="means").pick(library_question).experts == ("a",)


def test_several_are_weighed_by_what_ranks_them(library_question):
    picked = key_routers.ByKeys(num_nearest=2, num_experts=3).pick(library_question)
    assert picked.experts == ("a", "b", "c")
    assert picked.method == averages.Weighted(weights=(3.0, 2.0, 1.0))
    picked = key_routers.ByKeys(how="means", num_experts=3).pick(library_question)
    assert picked.experts == ("a", "b")  # c is less like than nothing
    values = dict(voting.ranked_by_means(ONE, QUERIES))
    assert picked.method == averages.Weighted(weights=(values["a"], values["b"]))


def test_where_no_expert_is_alike_the_first_is_taken(library_question):
    away = library_question._replace(vectors=np.array([[-1, -9]], np.float32))
    router = key_routers.ByKeys(how="means", num_experts=2)
    (name,) = router.pick(away).experts
    assert name == voting.ranked_by_means(ONE, away.vectors)[0][0]


def test_only_experts_that_may_be_chosen_have_a_say(library_question):
    few = library_question._replace(experts={"c": library_question.experts["c"]})
    assert key_routers.ByKeys().pick(few).experts == ("c",)


def test_names_tell_the_rules_apart():
    many = [
        key_routers.ByKeys(),
        key_routers.ByKeys(num_nearest=3),
        key_routers.ByKeys(by="similarity"),
        key_routers.ByKeys(how="means"),
        key_routers.ByKeys(how="means", num_experts=2),
    ]
    assert len({router.label for router in many}) == len(many)
    assert len({router.note for router in many}) == len(many)
    with pytest.raises(errors.ConfigError, match="num_nearest"):
        key_routers.ByKeys(num_nearest=0)


@pytest.mark.slow
def test_an_evaluation_scores_what_they_choose(tmp_path):
    """One nearest key is RoE: the same expert and the same scores, row by row."""
    with scored.registered():
        scored.save_base(tmp_path)
        for seed, name in enumerate(("plain", "twice"), start=1):
            toy.save_expert(tmp_path, name, seed)
        toy.build(tmp_path).run()
        roe = key_routers.ByKeys(num_nearest=1)
        ways = ("retrieved", roe, dataclasses.replace(roe, how="means"))
        toy.score(tmp_path, experts=(), strategies=ways).run()
    rows = {
        (row.expert, row.task): row
        for row in row_lines.read_rows(tmp_path / "results.jsonl")
        if row.metric == "accuracy"
    }
    for task in toy.TASKS:
        paper, same = rows["retrieved", task], rows[roe.label, task]
        assert {*same.experts} == {*paper.experts}
        assert same.per_example_sha256 == paper.per_example_sha256
        assert rows["by_mean_key", task].is_choice
