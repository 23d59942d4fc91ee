"""The table of routers, against numbers that come from result rows another way."""

import dataclasses
import json
import re

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.evaluation import result_store, results, row_lines
from elm_jax.merging import averages
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import (
    candidates,
    queries,
    routed_tokens,
    router_comparison,
    router_entropy,
    routers,
    routing_traces,
    strategies,
    strategy,
)
from tests.runs import routed, scored, toy

TOKENS = (
    routed_tokens.RoutedTokens(router=token_routers.Fixed(), num_traced=2),
    routed_tokens.RoutedTokens(router=input_routers.Logo(top_k=1), num_traced=2),
)
UNSCORED = routed_tokens.RoutedTokens(router=token_routers.EffectNorm())
CHOOSING = ("retrieved", routers.ByBehaviour(), routers.ByHalving(first_rows=2))


@pytest.fixture(autouse=True)
def toy_tasks():
    with scored.registered():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two prompt experts, a library of them, and made-up scores of what is chosen."""
    folder = tmp_path_factory.mktemp("routers_compared")
    with scored.registered():
        scored.save_base(folder)
        for seed, name in enumerate(("plain", "twice"), start=1):
            routed.save_expert(folder, name, seed)
        toy.build(folder).run()
        asked = toy.ask(folder)
        for question in asked.ask(asked, toy.TASKS, asked.data):
            target = strategy.Target(question.task, folder.joinpath, question)
            given = [candidates.Candidate("base")]
            given += candidates.of_experts([*question.experts.values()])
            given += [one.choose(target) for one in (strategies.MergeAll(), *TOKENS)]
            for place, one in enumerate(given):
                record(folder, question, one, place)
    return folder


def record(folder, question, one, place):
    """Records that so many rows are right: more of each next one, less of `twice`."""
    store = result_store.ResultStore(folder / "results.jsonl")
    count = 40
    number = (4, 20, 10, 24, 28, 30)[place] + 5 * toy.TASKS.index(question.task)
    values = np.where(np.arange(count) < number, 100.0, 0.0)
    info = manifest.read_manifest(folder / "base")
    cell = results.Cell(
        expert=one.name,
        base_fingerprint=info.fingerprint,
        expert_fingerprint=one.fingerprint,
        task=question.task,
        dataset=question.task,
        prompt="ask",
        split="test",
        protocol="default",
        seed=42,
        checkpoint_step=1,
        settings=one.settings,
    )
    trace = {"num_rows": 1, "experts": ["plain", "twice"], "places": ["a", "b"]}
    trace |= {"weights": [[0.5, 0.5], [1.0, 0.0]], "pieces": [], "of_pieces": []}
    array = np.frombuffer(json.dumps(trace).encode(), np.uint8)
    kept = {routing_traces.ARRAY: array} if one.strategy == "routed_tokens" else {}
    store.record(
        cell,
        run_id="r",
        values={"accuracy": float(values.mean())},
        num_examples=count,
        per_example={"example_ids": np.arange(count), "accuracy": values} | kept,
        facts=results.Facts(**one.facts(folder)),
    )


def compare(folder, **changes):
    asked = toy.ask(folder)
    given = {
        "model_dir": str(folder),
        "tasks": toy.TASKS,
        "data": toy.DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "strategies": (*CHOOSING, "merged_all", *TOKENS, UNSCORED),
        "retrieval": queries.Queries(embedder=asked.embedder, num_queries=2),
        "batch_size": 8,
    }
    return router_comparison.CompareRouters(**(given | changes))


@pytest.fixture(scope="module")
def lines(folder):
    """The table's rows by name, and all of the page."""
    with scored.registered():
        run = compare(folder)
        assert run.plan()["library"].endswith("2 experts")
        run.run()
    page = (folder / "report" / "routers.md").read_text()
    cells = [line.strip("|").split("|") for line in page.splitlines() if "|" in line]
    return {own[0].strip(): [one.strip() for one in own[1:]] for own in cells}, page


def scores_of(folder):
    rows = row_lines.read_rows(folder / "results.jsonl")
    return {
        (row.expert, row.task): row
        for row in rows
        if (row.metric, row.split) == ("accuracy", "test")
    }


def number(text):
    return float(re.match(r"[−-]?[\d.]+", text)[0].replace("−", "-"))


def mean(values):
    return pytest.approx(np.mean([*values]), abs=0.06)


def test_every_choice_has_the_score_of_its_parameters(folder, lines):
    rows, (table, _) = scores_of(folder), lines
    for name in ("merged_all", *(one.label for one in TOKENS)):
        expected = [rows[name, task].value for task in toy.TASKS]
        assert number(table[name][0]) == mean(expected), name
    base = [rows["base", task].value for task in toy.TASKS]
    assert number(table["base, no expert"][0]) == mean(base) == 16.25


def test_who_chooses_an_expert_has_its_score_regret_and_way(folder, lines):
    """By the choices of an evaluation's questions, and the made-up numbers."""
    table, _ = lines
    asked = toy.ask(folder)
    votes = {q.task: q.result.expert for q in asked.ask(asked, toy.TASKS, asked.data)}
    values = {"plain": (50.0, 62.5), "twice": (25.0, 37.5)}
    own = [values[name][toy.TASKS.index(task)] for task, name in votes.items()]
    assert number(table["oracle of these experts"][0]) == 56.2  # 56.25, halves to even
    assert number(table["random expert"][0]) == mean([50.0, 62.5, 25.0, 37.5])
    assert number(table["retrieved"][0]) == mean(own)
    assert number(table["retrieved"][1]) == mean([56.25 - np.mean(own)])
    share = 100 * (np.mean(own) - 16.25) / (56.25 - 16.25)
    assert number(table["retrieved"][2]) == pytest.approx(share, abs=0.6)
    hits = sum(name == "plain" for name in votes.values())
    is_own = votes["plain_ask"] == "plain"  # the other task is of no expert
    told = [f"{hits} of 2", f"{int(is_own)} of 1", f"{len({*votes.values()})}"]
    assert table["retrieved"][3:6] == told
    assert number(table["retrieved"][6]) == 0


def test_the_entropy_is_that_of_the_weights(lines):
    table, _ = lines
    assert number(table["merged_all"][6]) == pytest.approx(np.log(2), abs=0.01)
    # Of two places one is even and one has a single expert.
    assert number(table[TOKENS[0].label][6]) == pytest.approx(np.log(2) / 2, abs=0.01)


def test_what_was_not_scored_is_said_to_be_so(lines):
    table, page = lines
    assert table[UNSCORED.label][0] == "not scored"
    assert "1 were not scored on all of these tasks" in page


def test_the_curve_of_abstaining_ends_with_all_tasks(lines):
    _, page = lines
    curve = page.split("Abstaining by by_log_prob")[1]
    assert "100 %" in curve or "100%" in curve


def test_rows_that_ask_and_are_scored_are_refused(folder):
    """The test rows ask, and have made-up scores of every place."""
    other = dataclasses.replace(compare(folder).retrieval, split="test")
    with pytest.raises(errors.DataError, match="that ask and are scored"):
        compare(folder, retrieval=other).run()


def test_strategies_that_ask_no_library_are_refused(folder):
    with pytest.raises(errors.ConfigError, match="choose from a library"):
        compare(folder, strategies=("base", "retrieved"))


def test_weights_of_a_weighted_merge_tell_its_entropy(folder):
    folders = tuple(folder / "experts" / name for name in ("plain", "twice"))

    def entropy(method, number=2):
        one = candidates.Candidate("x", folders[:number], method=method)
        return router_entropy.of(one, None, None)

    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert entropy(averages.Weighted(weights=(3.0, 1.0))) == pytest.approx(expected)
    assert entropy(averages.Uniform(), 1) == 0
    assert entropy(averages.Uniform(), 0) is None
