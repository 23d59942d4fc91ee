"""A library with made-up scores of all that routers may choose of it."""

import json

import numpy as np

from elm_jax.evaluation import result_store, results
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import (
    bases,
    candidates,
    comparable_rows,
    queries,
    routed_tokens,
    router_comparison,
    router_scores,
    router_table,
    routers,
    routing_traces,
    strategies,
    strategy,
)
from tests.runs import routed, toy

TOKENS = (
    routed_tokens.RoutedTokens(router=token_routers.Fixed(), num_traced=2),
    routed_tokens.RoutedTokens(router=input_routers.Logo(top_k=1), num_traced=2),
)
IDS = np.arange(40)  # of the rows that were scored
UNSCORED = routed_tokens.RoutedTokens(router=token_routers.EffectNorm())
SHOWN = comparable_rows.Shown(
    tables={"Asking": toy.TASKS},
    split="test",
    selection_split="test",
    metrics=("accuracy",),
)
CHOOSING = ("retrieved", routers.ByBehaviour(), routers.ByHalving(first_rows=2))


def make(folder):
    """Makes two prompt experts, a library of them, and scores."""
    toy.make_library(folder, routed.save_expert)
    for question in questions_of(folder):
        for place, candidate in enumerate(candidates_for(folder, question)):
            record(folder, question, candidate, place)


def questions_of(folder):
    retrieval = toy.ask(folder)
    return retrieval.ask(retrieval, toy.TASKS, retrieval.data)


def candidates_for(folder, question):
    """Returns the base, two experts, their merge, and those of two token routers."""
    target = strategy.Target(question.task, folder.joinpath, question)
    choices = [candidates.Candidate("base")]
    choices += candidates.of_experts([*question.experts.values()])
    return choices + [
        chooser.choose(target) for chooser in (strategies.MergeAll(), *TOKENS)
    ]


def record(
    folder,
    question,
    candidate,
    place,
    *,
    ids=IDS,
    to="results.jsonl",
    values=None,
    **changes,
):
    """Records that so many rows are right: more of each next one, less of `twice`.

    Or the values that are given for the rows.
    """
    store = result_store.ResultStore(folder / to)
    number = (4, 20, 10, 24, 28, 30, 32)[place] + 5 * toy.TASKS.index(question.task)
    values = np.where(ids < number, 100.0, 0.0) if values is None else values
    fields = {
        "expert": candidate.name,
        "base_fingerprint": bases.read_fingerprint(folder / "base"),
        "expert_fingerprint": candidate.fingerprint,
        "task": question.task,
        "dataset": question.task,
        "prompt": "ask",
        "split": "test",
        "protocol": "default",
        "seed": 42,
        "checkpoint_step": 1,
        "settings": candidate.settings,
    }
    cell = results.Cell(**(fields | changes))
    trace = {"num_rows": 1, "experts": ["plain", "twice"], "places": ["a", "b"]}
    trace |= {"weights": [[0.5, 0.5], [1.0, 0.0]], "pieces": [], "of_pieces": []}
    array = np.frombuffer(json.dumps(trace).encode(), np.uint8)
    trace_arrays = (
        {routing_traces.ARRAY: array} if candidate.strategy == "routed_tokens" else {}
    )
    store.record(
        cell,
        run_id="r",
        values={"accuracy": float(values.mean())},
        num_examples=len(ids),
        per_example={"example_ids": ids, "accuracy": values} | trace_arrays,
        facts=results.Facts(**candidate.facts(folder)),
    )


def recorded_again(folder, questions, to, change):
    """Records all scores into another file; `change` gives what differs, or None."""
    for question in questions:
        for place, candidate in enumerate(candidates_for(folder, question)):
            changes = change(question.task, place)
            if changes is not None:
                record(folder, question, candidate, place, to=to, **changes)


def table_of(folder, questions, path):
    """Returns the table of each expert, the merge and the token routers."""
    store = result_store.ResultStore(folder / path)
    reported = comparable_rows.ComparableRows(store, {}, SHOWN)
    candidates_of = {q.task: candidates_for(folder, q) for q in questions}
    choices = {candidate.name: {} for candidate in [*candidates_of.values()][0][1:]}
    for task, every in candidates_of.items():
        for candidate in every[1:]:
            choices[candidate.name][task] = candidate
    scores = router_scores.Scores(reported, questions, "test", "accuracy")
    training = router_table.Training(scores, choices)
    return router_table.Table([training], {}).figures


def compare(folder, **changes):
    retrieval = toy.ask(folder)
    fields = {
        "model_dir": str(folder),
        "tasks": toy.TASKS,
        "data": toy.DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "strategies": (*CHOOSING, "merged_all", *TOKENS, UNSCORED),
        "retrieval": queries.Queries(embedder=retrieval.embedder, num_queries=2),
        "batch_size": 8,
    }
    return router_comparison.CompareRouters(**(fields | changes))
