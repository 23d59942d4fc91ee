"""Routers by behaviour, words and labels in an evaluation: what they choose."""

import dataclasses
import shutil
import types

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.library import sampling
from elm_jax.merging import averages, task_arithmetic
from elm_jax.routing import behaviour
from elm_jax.routing import texts as word_votes
from elm_jax.runs import (
    candidates,
    loaded,
    observed,
    placement,
    routers,
    scorer,
    strategies,
    strategy,
)
from tests.runs import toy
from tests.runs.evaluated import evaluation, rows_of, score_store

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture
def folder(routers_folder, tmp_path):
    return shutil.copytree(routers_folder, tmp_path / "folder")


def best_answers(folder, task):
    """Each expert's log-probabilities of its best answers, one row at a time."""
    base = loaded.Base.load(folder / "base")
    retrieval = toy.ask(folder)
    (question,) = retrieval.ask(retrieval, (task,), retrieval.data)
    data = retrieval.data.opened(str)
    program = scorer.Scorer(base, data, batch_size=8, where=placement.Placement())
    best = {}
    for name, place in question.experts.items():
        params, adapter = candidates.Candidate(name, (place,)).load(base)
        params = program.place(params)
        rows = [[question.dataset[row]] for row in question.rows]
        scores = [program.rank(params, adapter, row).scores[0] for row in rows]
        best[name] = [float(of_row.max()) for of_row in scores]
    return best


def test_the_expert_with_the_likeliest_answers_is_scored(routers_folder):
    """By a plain program, a row at a time, which keeps nothing."""
    rows = rows_of(routers_folder)
    for task in toy.TASKS:
        means = {
            n: np.mean(log_probs)
            for n, log_probs in best_answers(routers_folder, task).items()
        }
        assert abs(means["plain"] - means["twice"]) > 1e-3  # else luck decides
        best = max(means, key=means.__getitem__)
        assert [*rows["by_log_prob", task].experts] == [best]
        assert rows["by_log_prob", task].strategy == "by_behaviour"
        assert rows["by_log_prob", task].is_choice


def test_a_merge_by_behaviour_is_weighed_by_likelihood(routers_folder):
    name = "by_log_prob_top2_weighted_weighted"
    for task in toy.TASKS:
        row = rows_of(routers_folder)[name, task]
        assert {*row.experts} == {"plain", "twice"}
        assert not row.is_choice
        assert row.expert_fingerprint not in row.experts.values()


def test_words_choose_the_owner_of_the_likest_key(routers_folder):
    rows = rows_of(routers_folder)
    for question_of_task in asked_of(routers_folder):
        texts = question_of_task.key_texts()
        assert {*texts} == {"plain", "twice"}
        assert all(len(key_texts) == 4 for key_texts in texts.values())
        assert all(
            text.startswith("Answer Choices") for text in question_of_task.query_texts()
        )
        best = word_votes.votes(texts, question_of_task.query_texts())[0][0]
        assert [*rows["by_words", question_of_task.task].experts] == [best]


def test_rows_behind_keys_that_are_not_those_embedded_are_refused(routers_folder):
    library_question, *_ = asked_of(routers_folder)
    first, *rest = library_question.keys
    changed = dataclasses.replace(first, texts_sha256="0" * 64)
    with pytest.raises(errors.DataError, match="other texts of the rows behind"):
        library_question._replace(keys=(changed, *rest)).key_texts()


def test_who_abstains_on_every_task_has_the_scores_of_the_base(routers_folder):
    rows = rows_of(routers_folder)
    for task in toy.TASKS:
        shy, base = rows["shy", task], rows["base", task]
        assert shy.per_example_sha256 == base.per_example_sha256
        assert (shy.experts, shy.role, shy.is_choice) == ({}, "strategy", False)


def test_only_the_first_by_votes_are_looked_at(routers_folder):
    """With one expert to look at, it is RoE's, whatever it answers."""
    votes = {q.task: q.result.expert for q in asked_of(routers_folder)}
    for task in toy.TASKS:
        row = rows_of(routers_folder)["by_margin_of_1", task]
        assert [*row.experts] == [votes[task]]


def asked_of(folder):
    retrieval = toy.ask(folder)
    return retrieval.ask(retrieval, toy.TASKS, retrieval.data)


@pytest.mark.slow
def test_halving_takes_the_best_on_the_labelled_rows_that_ask(folder, capsys):
    """With all rows at once, against right answers counted one row at a time."""
    retrieval = dataclasses.replace(toy.ask(folder), num_queries=4)
    router = routers.ByHalving(first_rows=4)
    evaluation(folder, retrieval=retrieval, strategies=("base", router)).run()
    base = loaded.Base.load(folder / "base")
    data = retrieval.data.opened(str)
    program = scorer.Scorer(base, data, batch_size=8, where=placement.Placement())
    rows = rows_of(folder)
    for question in retrieval.ask(retrieval, toy.TASKS, retrieval.data):
        right = {}
        for name, place in question.experts.items():
            params, adapter = candidates.Candidate(name, (place,)).load(base)
            params, measures = program.place(params), []
            for row in question.rows:
                example = question.dataset[row]
                ranked = program.rank(params, adapter, [example])
                powers = np.exp(np.float64(ranked.scores[0]))
                measures.append(
                    (ranked.credit[0], powers[example.label] / powers.sum())
                )
            right[name] = tuple(np.round(np.mean(measures, axis=0), 6))
        assert len({*right.values()}) == 2  # else the name decides
        best = max(right, key=right.__getitem__)
        assert [*rows[router.label, question.task].experts] == [best]
    capsys.readouterr()
    evaluation(folder, retrieval=retrieval, strategies=("base", router)).run()
    assert "to score: 0" in capsys.readouterr().out


@pytest.mark.slow
def test_no_row_whose_label_halving_reads_is_scored(folder):
    """Rows that ask are found by the library's seed where others of them are keys.

    What is scored is chosen by the seed of who asks.
    """
    where = "{MODEL_DIR}/by_validation"
    toy.build(folder, library_dir=where, split="validation", random_seed=43).run()
    retrieval = toy.ask(folder, library_dir=where, tasks=("plain_ask",))
    settings = {
        "tasks": ("plain_ask",),
        "retrieval": retrieval,
        "splits": ("validation",),
    }
    halved = ("base", routers.ByHalving())
    with pytest.raises(errors.DataError, match="labels choose an expert"):
        evaluation(folder, strategies=halved, **settings).run()
    evaluation(folder, strategies=halved, **(settings | {"splits": ("test",)})).run()


def test_the_order_of_halving_is_that_of_rows_everywhere_else(tmp_path):
    """By raw bits, which no release of NumPy changes."""
    halved_question, seen = (
        toy.question(tmp_path)._replace(rows=tuple(range(100, 108))),
        [],
    )

    def score(names, rows):
        seen.extend(rows)
        return [[[0.0, -1.0]] * len(rows) for _ in names]

    example = types.SimpleNamespace(choices_text=("yes", "no"), label=0)
    halved_question = halved_question._replace(
        score_rows=score, dataset=[example] * 108
    )
    routers.ByHalving(first_rows=8, random_seed=5).pick(halved_question)
    assert seen == [100 + place for place in sampling.order_rows(8, seed=5)]


@pytest.mark.slow
def test_halving_takes_what_is_known_of_all_experts_and_scores_nothing(folder):
    """And takes the same experts as where it scores them itself."""
    alone = routers.ByHalving(first_rows=1)
    evaluation(folder, strategies=("base", alone)).run()
    chosen = [rows_of(folder)[alone.label, task].experts for task in toy.TASKS]
    before = score_store(folder).rows()
    both = (routers.ByBehaviour(), dataclasses.replace(alone, name="again"))
    evaluation(folder, strategies=("base", *both)).run()
    assert score_store(folder).rows() == before
    assert [rows_of(folder)["again", task].experts for task in toy.TASKS] == chosen


@pytest.mark.slow
def test_halving_scores_the_better_half_alone_on_more_rows(folder):
    toy.save_expert(folder, "signs", 3)
    toy.build(folder, experts=("{MODEL_DIR}/experts/signs",)).run()
    retrieval = dataclasses.replace(toy.ask(folder), num_queries=4)
    before = len(score_store(folder).rows())
    router = routers.ByHalving(first_rows=2)
    evaluation(folder, retrieval=retrieval, strategies=("base", router)).run()
    counts = [row.num_examples for row in score_store(folder).rows()[before:]]
    # Three experts on two rows, and two on two more.
    assert sorted(counts) == [2] * (3 + 2) * len(toy.TASKS)


def test_halving_is_refused_where_there_are_no_right_answers(folder):
    retrieval = dataclasses.replace(toy.ask(folder), tasks=("written_ask",))
    strategies = (routers.ByHalving(),)
    run = evaluation(
        folder, tasks=("written_ask",), retrieval=retrieval, strategies=strategies
    )
    with pytest.raises(errors.ConfigError, match="written_ask"):
        run.run()


def test_statistics_of_written_answers_by_hand():
    scores = behaviour.WrittenScores(
        np.array([[-1.0, -5.0], [-2.0, -2.0]]), np.array([[1, 5], [1, 1]])
    )
    ranked = behaviour.ranked(("a", "b"), scores, "log_prob")
    assert ranked == (("b", -2.0), ("a", -3.0))
    ranked = behaviour.ranked(("a", "b"), scores, "log_prob_per_token")
    assert ranked == (("a", -1.0), ("b", -2.0))
    with pytest.raises(errors.DataError, match="margin"):
        behaviour.ranked(("a", "b"), scores, "margin")
    with pytest.raises(errors.DataError, match="shapes"):
        behaviour.WrittenScores(np.zeros((2, 3)), np.ones((2, 2)))


def question(tmp_path, **scores):
    """A question to experts that give such scores to two answers of one row."""
    observation = observed.Behaviour(
        tuple(scores),
        behaviour.ChoiceScores(
            np.array([[log_probs] for log_probs in scores.values()], np.float64),
            np.ones((1, 2), np.int64),
            np.ones((1, 2), bool),
            np.zeros((1, 2)),
        ),
    )
    return toy.question(tmp_path)._replace(behaviour=observation)


def test_what_a_router_takes(tmp_path):
    library_question = question(
        tmp_path, a=(-3.0, -4.0), b=(-1.0, -9.0), c=(-0.5, -2.0)
    )
    assert routers.ByBehaviour().pick(library_question).experts == ("c",)
    assert routers.ByBehaviour(statistic="margin").pick(library_question).experts == (
        "b",
    )
    assert routers.ByBehaviour(num_experts=2).pick(library_question).experts == (
        "c",
        "b",
    )
    # The votes name a and b first; c is not looked at.
    assert routers.ByBehaviour(among=2).looks_at(library_question) == ["a", "b"]
    assert routers.ByBehaviour(among=2).pick(library_question).experts == ("b",)
    picked = routers.ByBehaviour(
        num_experts=2, weigh=True, method=averages.Weighted(), temperature=0.5
    ).pick(library_question)
    share = 1 / (1 + np.exp(-1.0))  # half a nat at temperature 1/2
    assert isinstance(picked.method, averages.Weighted)
    np.testing.assert_allclose(picked.method.weights, (share, 1 - share))


def test_where_no_expert_is_good_enough_the_base_or_the_mean_of_all_is_taken(tmp_path):
    library_question = question(
        tmp_path, a=(-3.0, -4.0), b=(-1.0, -9.0), c=(-0.5, -2.0)
    )
    router = routers.ByBehaviour(abstains=True, least=-0.5)
    assert router.pick(library_question).experts == ("c",)  # -0.5 is enough
    shy = dataclasses.replace(router, least=-0.4)
    candidate = shy.choose(strategy.Target("task", tmp_path.joinpath, library_question))
    assert (candidate.folders, candidate.fingerprint, candidate.is_merged) == (
        (),
        "",
        False,
    )
    assert candidate.name == "by_log_prob_or_base_below_-0.4"
    mixed = dataclasses.replace(shy, otherwise="uniform")
    assert mixed.pick(library_question).experts == ("a", "b", "c")
    assert mixed.merges
    assert not shy.merges


def test_strategies_of_other_settings_have_other_names_and_marks():
    many = [
        *(routers.ByBehaviour(statistic=name) for name in behaviour.STATISTICS),
        routers.ByBehaviour(num_experts=3),
        routers.ByBehaviour(num_experts=3, method=task_arithmetic.TaskArithmetic()),
        routers.ByBehaviour(among=16),
        routers.ByBehaviour(among=16, by="similarity"),
    ]
    assert len({router.label for router in many}) == len(many)
    assert len({router.settings for router in many}) == len(many)
    assert strategies.of(many) == tuple(many)
    assert routers.ByBehaviour().settings == ""


def test_weights_for_a_method_that_takes_none_are_refused():
    with pytest.raises(errors.ConfigError):
        routers.ByBehaviour(num_experts=2, weigh=True)
