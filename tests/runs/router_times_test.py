"""What routers take is measured anew, whatever a library keeps."""

import itertools
import time
import types
from typing import Any
from unittest import mock

import pytest

from elm_jax.data import span_corruption
from elm_jax.evaluation import result_store
from elm_jax.routing import token_routers
from elm_jax.runs import (
    candidates,
    embedders,
    key_routers,
    loaded,
    loss_routers,
    observed,
    placement,
    pools,
    routed_tokens,
    router_times,
    routers,
    scorer,
    strategies,
    strategy,
)
from tests.runs import routed, scored, toy

PAUSE = 0.05  # seconds that loading an expert takes longer than it does
FIRST, LATER = 1000, 1  # seconds of embedding, by the clock of the embedder
MANY = (
    strategies.Retrieved(),
    routers.ByBehaviour(),
    routers.ByBehaviour(statistic="mass", among=1),
    routers.ByHalving(first_rows=1),
    key_routers.ByKeys(how="means"),
    strategies.MergeAll(),
    routers.ByWords(),
    routed_tokens.RoutedTokens(router=token_routers.Fixed()),
    routed_tokens.RoutedTokens(router=token_routers.Fixed(), num_experts=1),
    routed_tokens.RoutedTokens(router=token_routers.Fixed(), norms="retrieved"),
    pools.AnswerPool(),
    pools.AnswerPool(among=1),
    loss_routers.ByInputLoss(),
)


@pytest.fixture(scope="module")
def timed_question(tmp_path_factory):
    """A task that asks a library, with what scores, the base, and embedding's clock."""
    tmp_path = tmp_path_factory.mktemp("times")
    clock = Clock()
    with scored.registered(), mock.patch.object(embedders.EmbedderSpec, "make", clock):
        toy.make_library(tmp_path, routed.save_expert)
        toy.score(tmp_path, experts=(), strategies=("base", *MANY)).run()
        retrieval = toy.ask(tmp_path)
        base = loaded.Base.load(tmp_path / "base")
        data = retrieval.data.opened(retrieval.place)
        where = placement.Placement()
        program = scorer.Scorer(base, data, batch_size=8, where=where)
        clock.seconds = 0
        (question,) = retrieval.ask(retrieval, toy.TASKS[:1], retrieval.data)
        spans = span_corruption.missing_spans(
            question.dataset, question.rows, vocabulary=data.vocabulary, seed=0
        )
        asked_by_spans = question._replace(dataset=spans, rows=(*range(len(spans)),))
        question = question._replace(
            behaviour=behaviour_of(tmp_path, question),
            missing_spans=lambda _: asked_by_spans,
        )
        target = strategy.Target(question.task, tmp_path.joinpath, question)
        yield target, program, base, clock


class Clock:
    """A clock of embedding, and embedders that are slow when they are first called."""

    seconds = 0
    make = staticmethod(embedders.EmbedderSpec.make)

    def __call__(self, **options):
        embedder = self.make(toy.ENCODER, **options)
        took = itertools.chain([FIRST], itertools.repeat(LATER))

        def embed(texts):
            self.seconds += next(took)
            return embedder.embed(texts)

        return types.SimpleNamespace(name=embedder.name, embed=embed)

    def perf_counter(self):
        return self.seconds


@pytest.fixture(scope="module")
def times(timed_question):
    """The times of routers, where every single expert is slow to be loaded."""
    target, program, base, _ = timed_question
    plain = candidates.Candidate.load

    def slow(self, base):
        time.sleep(PAUSE * (len(self.folders) == 1))
        return plain(self, base)

    with mock.patch.object(candidates.Candidate, "load", slow):
        return router_times.measure(MANY, [target], program, base)


@pytest.mark.slow
def test_embedding_counts_as_it_is_later_and_for_who_reads_votes(timed_question):
    """By a clock that nothing but embedding moves."""
    target, program, base, clock = timed_question
    with mock.patch.object(router_times, "time", clock):
        times = router_times.measure(MANY, [target], program, base)
    choosing = {label: measured.choosing for label, measured in times.items()}
    assert choosing == {router.label: LATER * router.reads_votes for router in MANY}
    assert {label for label, seconds in choosing.items() if seconds} == {
        *("retrieved", "by_mass_of_1", "by_mean_key"),
        *("tokens_by_fixed_top1", "tokens_by_fixed_norms_retrieved"),
        "pooled_by_mass_of_1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("router", MANY, ids=lambda router: router.label)
def test_who_says_that_it_reads_no_votes_chooses_without(timed_question, router):
    target, *_ = timed_question
    question = target.question._replace(score_rows=even_scores)
    spans = question.missing_spans(0)._replace(score_rows=even_scores)
    question = question._replace(missing_spans=lambda _: spans)
    chosen = router.choose(target._replace(question=question))
    question = question._replace(result=None, vectors=None)
    if not router.reads_votes:
        assert router.choose(target._replace(question=question)) == chosen
        return
    with pytest.raises((AttributeError, AssertionError)):
        router.looks_at(question)
        router.choose(target._replace(question=question))


def even_scores(names, rows):
    return [[[0.0, 0.0]] * len(rows)] * len(names)


def behaviour_of(folder, question):
    """Returns what an evaluation has kept of this task."""
    store = result_store.ResultStore(folder / "library" / "behaviour" / "scores.jsonl")
    rows = {
        row.expert: store.per_example(row)["scores"].reshape(-1, 2).tolist()
        for row in store.rows()
        if (row.task, row.num_examples) == (question.task, len(question.rows))
        and row.value == len(question.dataset[0].choices)  # or it is of missing spans
    }
    base = rows.pop("base")
    examples = [question.dataset[row] for row in question.rows]
    return observed.of(rows, base, examples)


@pytest.mark.slow
def test_who_looks_at_experts_takes_the_time_to_score_these(times):
    """Two experts and the one that is chosen, one and this one, or this one alone."""
    least = {name: int(measured.choosing / PAUSE) for name, measured in times.items()}
    assert least["by_log_prob"] >= 3
    assert least["by_mass_of_1"] >= 2
    assert least["by_halving_from_1"] >= 3  # both experts on a row, then the better one
    assert least["by_input_loss"] >= 3  # both experts on inputs
    assert least["retrieved"] >= 1
    assert least["pooled_by_mass"] >= 4  # both to be weighed, and both to answer
    assert times["by_mean_key"].choosing < times["by_log_prob"].choosing


@pytest.mark.slow
def test_every_router_has_times(times):
    assert {*times} == {router.label for router in MANY}
    assert all(measured.answering > 0 for measured in times.values())


def test_without_tasks_nothing_is_measured():
    nothing: Any = None
    assert router_times.measure(MANY, [], nothing, nothing) == {}
