"""What routers take is measured anew, whatever a library keeps."""

import time
from typing import Any
from unittest import mock

import pytest

from elm_jax.evaluation import result_store
from elm_jax.routing import token_routers
from elm_jax.runs import (
    candidates,
    key_routers,
    loaded,
    observed,
    placement,
    routed_tokens,
    router_times,
    routers,
    scorer,
    strategies,
    strategy,
)
from tests.runs import routed, scored, toy

PAUSE = 0.05  # seconds that loading an expert takes longer than it does
MANY = (
    strategies.Retrieved(),
    routers.ByBehaviour(),
    routers.ByBehaviour(statistic="mass", among=1),
    routers.ByHalving(first_rows=1),
    key_routers.ByKeys(how="means"),
    strategies.MergeAll(),
    routed_tokens.RoutedTokens(router=token_routers.Fixed()),
)


@pytest.fixture(scope="module")
def times(tmp_path_factory):
    """The times of routers, where every single expert is slow to be loaded."""
    tmp_path = tmp_path_factory.mktemp("times")
    with scored.registered():
        toy.make_library(tmp_path, routed.save_expert)
        toy.score(tmp_path, experts=(), strategies=("base", *MANY)).run()
        asked = toy.ask(tmp_path)
        base = loaded.Base.load(tmp_path / "base")
        data = asked.data.opened(asked.place)
        where = placement.Placement()
        program = scorer.Scorer(base, data, batch_size=8, where=where)
        (question,) = asked.ask(asked, toy.TASKS[:1], asked.data)
        question = question._replace(behaviour=behaviour_of(tmp_path, question))
        plain = candidates.Candidate.load

        def slow(self, base):
            time.sleep(PAUSE * (len(self.folders) == 1))
            return plain(self, base)

        target = strategy.Target(question.task, tmp_path.joinpath, question)
        with mock.patch.object(candidates.Candidate, "load", slow):
            return router_times.measure(MANY, [target], program, base)


def behaviour_of(folder, question):
    """Returns what an evaluation has kept of this task."""
    store = result_store.ResultStore(folder / "library" / "behaviour" / "scores.jsonl")
    rows = {
        row.expert: store.per_example(row)["scores"].reshape(-1, 2).tolist()
        for row in store.rows()
        if (row.task, row.num_examples) == (question.task, len(question.rows))
    }
    base = rows.pop("base")
    examples = [question.dataset[row] for row in question.rows]
    return observed.of(rows, base, examples)


def test_who_looks_at_experts_takes_the_time_to_score_these(times):
    """Two experts and the one that is chosen, one and this one, or this one alone."""
    least = {name: int(one.choosing / PAUSE) for name, one in times.items()}
    assert least["by_log_prob"] >= 3
    assert least["by_mass_of_1"] >= 2
    assert least["by_halving_from_1"] >= 3  # both experts on a row, then the better one
    assert least["retrieved"] >= 1
    assert times["by_mean_key"].choosing < times["by_log_prob"].choosing


def test_every_router_has_times(times):
    assert {*times} == {one.label for one in MANY}
    assert all(one.answering > 0 for one in times.values())


def test_without_tasks_nothing_is_measured():
    nothing: Any = None
    assert router_times.measure(MANY, [], nothing, nothing) == {}
