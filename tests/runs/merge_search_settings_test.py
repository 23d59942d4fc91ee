"""Searches are refused where they fit no method, and rows where they cannot choose."""

import dataclasses
from unittest import mock

import pytest

from elm_jax import errors
from elm_jax.data import tasks
from elm_jax.merging import averages
from elm_jax.runs import merge_searches, search_rows
from tests.runs import scored
from tests.runs.searched import ROWS, SUM, search_of

CROSS_FITTED = dataclasses.replace(ROWS, cross_fit=True)

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.mark.parametrize(
    ("search", "method", "message"),
    [
        (merge_searches.Sweep(option="density"), SUM, "sweep of 'density'"),
        (merge_searches.GreedySoup(), SUM, "greedy_soup for"),
        (merge_searches.LoraHub(), averages.Uniform(), "lorahub for"),
        (merge_searches.LoraHub(rows=CROSS_FITTED), SUM, "lorahub, which does not"),
        (merge_searches.Sweep(values=(1.0, 0.5, 1)), SUM, "each value once"),
        (merge_searches.AdaMerging(), averages.Uniform(), "adamerging for"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_searches_for_methods_that_they_do_not_fit_are_refused(
    tmp_path, search, method, message
):
    with pytest.raises(errors.ConfigError, match=message):
        search_of(tmp_path, "whole", search, "x", method)


def test_the_recipe_of_a_search_tells_its_kind_and_its_options():
    recipe = merge_searches.LoraHub(by="gradient").recipe()
    assert (recipe["search"], recipe["by"]) == ("lorahub", "gradient")


def test_a_learning_rate_that_no_gradient_reads_is_refused():
    with pytest.raises(errors.ConfigError, match="learning_rate"):
        merge_searches.LoraHub(learning_rate=0.2)
    assert merge_searches.LoraHub(by="gradient", learning_rate=0.2).learning_rate == 0.2


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("bleu", "squad"), "f1"), (("rouge",), "rougeL"), ((), "rougeL")],
)
def test_the_score_of_rows_is_the_first_that_a_row_can_have(tmp_path, names, expected):
    (part,) = json_of_written(tmp_path, names)
    assert part["metric"] == expected


def test_a_task_whose_metrics_are_of_whole_corpora_chooses_nothing(tmp_path):
    with pytest.raises(errors.ConfigError, match="whose metrics are bleu"):
        json_of_written(tmp_path, ("bleu",))


def json_of_written(tmp_path, names):
    task = tasks.registry.task("written_ask")
    assert isinstance(task, tasks.Task)
    changed = dataclasses.replace(task, metrics=names)
    run = search_of(tmp_path, "ia3", None, "x")
    with mock.patch.dict(tasks.registry._items, {task.name: changed}):
        parts = search_rows.open_rows(
            dataclasses.replace(ROWS, tasks=(task.name,)),
            scored.make_data().opened(run.place),
        )
        return [part.as_json for part in parts]
