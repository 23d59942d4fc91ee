"""Rows that are scored are none of those that ask a library."""

import shutil

import pytest

from elm_jax.evaluation import result_store
from elm_jax.library import sampling
from elm_jax.runs import queries, scored_rows
from tests.runs import toy

NUM_ROWS, NUM_QUERIES = 40, 8


def chosen(retrieval, *, split="validation", seed=0, most=0):
    return scored_rows.choose(
        NUM_ROWS, split=split, retrieval=retrieval, seed=seed, most=most
    )


@pytest.mark.parametrize("seed", range(5))
def test_all_rows_but_those_that_ask_are_scored(seed):
    retrieval = queries.Queries(num_queries=NUM_QUERIES, random_seed=seed)
    parts = sampling.divide_rows(NUM_ROWS, seed=seed, num_queries=NUM_QUERIES)
    scored = chosen(retrieval)
    assert len(parts.queries) == NUM_QUERIES
    assert {*scored} == {*range(NUM_ROWS)} - {*parts.queries.tolist()}
    assert scored == sorted(scored)


def test_rows_of_another_split_than_that_of_queries_are_all_scored():
    retrieval = queries.Queries(num_queries=NUM_QUERIES)
    assert chosen(retrieval, split="test") == [*range(NUM_ROWS)]
    assert chosen(None) == [*range(NUM_ROWS)]


def test_fewer_rows_are_some_of_those_that_all_rows_would_be():
    retrieval = queries.Queries(num_queries=NUM_QUERIES)
    few = chosen(retrieval, most=10)
    assert len(few) == 10
    assert {*few} < {*chosen(retrieval)}


def test_the_seed_of_queries_decides_where_a_library_is_asked():
    retrieval = queries.Queries(num_queries=NUM_QUERIES)
    assert chosen(retrieval, seed=1) == chosen(retrieval, seed=2)
    assert chosen(None, seed=1, most=10) != chosen(None, seed=2, most=10)


@pytest.mark.slow
@pytest.mark.usefixtures("toy_tasks")
def test_an_evaluation_scores_none_of_the_rows_that_asked(library_folder, tmp_path):
    shutil.copytree(library_folder, folder := tmp_path / "folder")
    retrieval = queries.Queries(embedder=toy.ENCODER, num_queries=2)
    toy.score(folder, splits=("validation",), retrieval=retrieval, overlap="mark").run()
    store = result_store.ResultStore(folder / "results.jsonl")
    questions = retrieval.ask(
        toy.build(folder), toy.TASKS, toy.DATA, base_path="{MODEL_DIR}/base"
    )
    asking_rows = {question.task: {*question.rows} for question in questions}
    rows = store.rows()
    assert {row.task for row in rows} == {*asking_rows}
    for row in rows:
        scored = {*store.per_example(row)["example_ids"].tolist()}
        assert len(asking_rows[row.task]) == 2
        assert scored == {*range(row.split_rows)} - asking_rows[row.task]
