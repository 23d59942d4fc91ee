"""Published numbers stand beside ours, and what lacks is told, with commands for it."""

import importlib
import json
import shlex

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.cli import gin_flags
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import result_store, results
from elm_jax.runs import replay, replay_data
from tests import readmes
from tests.runs import scored

PUBLISHED = readmes.ROOT / "tasks" / "tables" / "published.json"
TASKS = ("plain_ask", "signs_ask")
COLUMNS = [
    {"name": "plain", "label": "Plain", "rows": 200},
    {"name": "signs", "label": "Signs", "rows": 200},
]


def row(name, ours, **changes):
    return {
        "name": name,
        "label": f"the {name}",
        "ours": ours,
        "source": "made up",
        "status": "certain",
        "cells": {"plain": 50.0, "signs": 80.0, "mean": 65.0},
        "notes": {"mean": "a misprint"},
        "needs": ["weights"],
        "commands": ["score"],
        "flops": 1.6e14 * 3600 * 5,
    } | changes


def published(folder, *rows, kind="scores"):
    table = {
        "name": kind,
        "title": f"Made-up {kind}",
        "kind": kind,
        "tasks": "made_up",
        "metric": "accuracy",
        "split": "test",
        "columns": [] if kind == "gains" else COLUMNS,
        "rows": list(rows),
    }
    content = {
        "tables": [table],
        "needs": {"weights": "weights of 11 GB"},
        "commands": {"score": "elm_eval --gin_file=x.gin"},
    }
    (folder / "published.json").write_text(json.dumps(content))


@pytest.fixture
def toy_tasks():
    with scored.registered():
        task_registry.registry.add(task_registry.Mixture("made_up", TASKS))
        yield


def record(folder, expert, rates, *, kind="prompt", num_rows=200, file="", **facts):
    """Scores that are right on the first rows of each task."""
    store = result_store.ResultStore(folder / (file or "results.jsonl"))
    for task, rate in zip(TASKS, rates, strict=False):
        values = 100.0 * (np.arange(num_rows) < rate * num_rows)
        cell = results.Cell(
            expert=expert,
            base_fingerprint="0123",
            expert_fingerprint=facts.get("mark", expert),
            task=task,
            dataset=task.removesuffix("_ask"),
            prompt="ask",
            split="test",
            protocol="elm",
            seed=0,
            checkpoint_step=0,
        )
        mark = facts.get("mark")
        store.record(
            cell,
            run_id="r",
            values={"accuracy": float(values.mean())},
            num_examples=num_rows,
            per_example={"example_ids": np.arange(num_rows), "accuracy": values},
            facts=results.Facts(
                kind=kind,
                strategy="retrieved" if mark else "",
                experts={mark: mark} if mark else {},
            ),
        )


def run(folder, **changes):
    fields = {
        "model_dir": str(folder),
        "title": "t",
        "published_path": str(folder / "published.json"),
    }
    replay_run = replay.Replay(**(fields | changes))
    replay_run.plan()
    replay_run.start(config="", operative_config="")
    return (folder / "replay" / "tables.md").read_text()


def cells(text, label):
    line = next(n for n in text.splitlines() if n.startswith(f"| {label}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.mark.usefixtures("toy_tasks")
def test_cells_are_within_or_outside_of_our_interval_and_the_tolerance(tmp_path):
    published(tmp_path, row("base", "base"))
    record(tmp_path, "base", (0.5, 0.5), kind="base")
    text = run(tmp_path)
    expected, ours, apart, verdict = cells(text, "Plain")
    assert (expected, apart, verdict) == ("50.00", "0.0", "within")
    assert ours.startswith("50.0 (4")  # with its interval
    assert cells(text, "Signs")[2:] == ["−30.0", "outside"]
    assert cells(text, r"mean \[1\]")[2:] == ["−15.0", "outside"]
    assert r"\[1\] a misprint" in text
    assert "Of 3 published cells: 1 within, 2 outside." in text
    assert "base 0123" in text
    assert "Missing" not in text
    page = (tmp_path / "replay" / "index.html").read_text()
    assert "a misprint" in page
    wide = run(tmp_path, tolerance=25.0)
    assert cells(wide, "Signs")[3] == "within"


@pytest.mark.usefixtures("toy_tasks")
def test_what_is_not_scored_is_told_with_hours_and_commands(tmp_path):
    published(tmp_path, row("base", "base"), row("roe", "retrieved"))
    record(tmp_path, "base", (0.5, 0.8), kind="base")
    first, second = run(tmp_path).split("the roe")
    assert "Missing" not in first
    assert cells(second, "Plain") == ["50.00", "–", "–", "not scored"]
    assert "weights of 11 GB; at most 2.9e+18 FLOPs, 5.0 hours." in second
    assert "$ elm_eval --gin_file=x.gin" in second
    assert "Ours would be: retrieved of" in second
    # Without any result file, all of it.
    empty = tmp_path / "empty"
    empty.mkdir()
    published(empty, row("base", "base"))
    assert "Of 3 published cells: 3 not scored whole." in run(empty)


@pytest.mark.usefixtures("toy_tasks")
def test_a_part_of_the_prompts_or_rows_is_not_judged(tmp_path):
    published(tmp_path, row("base", "base"))
    record(tmp_path, "base", (0.5,), kind="base")
    text = run(tmp_path)
    assert cells(text, "Plain")[3] == "within"
    assert cells(text, "Signs") == ["80.00", "–", "–", "0 of 1 prompts"]
    assert cells(text, r"mean \[1\]") == ["65.00", "–", "–", "1 of 2 datasets"]
    few = tmp_path / "few"
    few.mkdir()
    published(few, row("base", "base"))
    record(few, "base", (0.5, 0.5), kind="base", num_rows=167)  # 33 fewer
    text = run(few)
    assert cells(text, "Plain")[3] == "167 of 200 rows"
    assert cells(text, r"mean \[1\]")[1] == "–"
    queries = tmp_path / "queries"
    queries.mkdir()
    published(queries, row("base", "base"))
    record(queries, "base", (0.5, 0.5), kind="base", num_rows=168)  # the queries
    assert cells(run(queries), "Plain")[3] == "within"


@pytest.mark.usefixtures("toy_tasks")
def test_a_gain_of_the_best_is_a_bound_beside_its_cross_fitted_worth(tmp_path):
    gain = row("gain", "best_single", minus="t0", cells={"mean": 20.0}, notes={})
    multitask = row("t0", "base", minus="t0", cells={}, notes={})
    published(tmp_path, gain, multitask, kind="gains")
    for place in range(6):
        record(tmp_path, f"e{place}", (0.5 + 0.02 * place, 0.6))
    record(tmp_path, "base", (0.4, 0.4), kind="base", file="t0/results.jsonl")
    text = run(tmp_path, results={"t0": "{MODEL_DIR}/t0/results.jsonl"})
    # A bound has no interval.
    assert cells(text, "mean") == ["20.00", "20.0", "0.0", "within"]
    assert "–" in cells(text, "the same, cross-fitted")[1]


@pytest.mark.usefixtures("toy_tasks")
def test_ranks_are_of_what_was_retrieved_among_the_experts(tmp_path):
    ranks = {"plain": 1.0, "signs": 90.0, "mean": 2.0}
    published(tmp_path, row("roe", "retrieved", cells=ranks), kind="ranks")
    for place in range(4):
        record(tmp_path, f"e{place}", (0.9 - 0.1 * place, 0.5 + 0.1 * place))
    record(tmp_path, "retrieved", (0.9, 0.5), kind="strategy", mark="e0")
    text = run(tmp_path)
    assert cells(text, "Plain") == ["1.00", "1.0", "0.0", "within"]
    assert cells(text, "Signs") == ["90.00", "4.0", "−86.0", "outside"]
    assert cells(text, r"mean \[1\]")[1] == "2.5"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": ("scroes",)}, "Did you mean: scores"),
        ({"ours": {"bas": "x"}}, "Did you mean: base"),
        ({"results": {"x": "y"}}, "Replay.results with 'x'"),
        ({"bases": {"x": "y"}}, "Replay.bases with 'x'"),
    ],
)
@pytest.mark.usefixtures("toy_tasks")
def test_names_that_no_table_has_are_refused(tmp_path, changes, message):
    published(tmp_path, row("base", "base"))
    with pytest.raises(errors.ConfigError, match=message):
        run(tmp_path, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flops": "many"}, "flops is 'many'"),
        ({"cells": {"plane": 1.0}}, "row 'base' with 'plane'"),
        ({"needs": ["gold"]}, "row 'base' with 'gold'"),
        ({"minus": "base"}, "minus is for gains"),
        ({"lable": "x"}, "made up"),
    ],
)
@pytest.mark.usefixtures("toy_tasks")
def test_published_numbers_that_cannot_be_are_refused(tmp_path, change, message):
    changed = row("base", "base") | change
    if "lable" in change:
        del changed["label"]
        message = "label is missing"
    published(tmp_path, changed)
    with pytest.raises(errors.DataError, match=message):
        run(tmp_path)


def test_the_papers_numbers_have_the_means_that_are_told_of_them():
    content = replay_data.read(PUBLISHED)
    rows = {row["name"]: row for table in content["tables"] for row in table["rows"]}
    means = {}
    for name in ("t5_3b", "roe_3b", "t0_3b", "t0_11b"):
        by_dataset = dict(rows[name]["cells"])
        printed = by_dataset.pop("mean")
        assert len(by_dataset) == 11
        means[name] = (printed, round(float(np.mean([*by_dataset.values()])), 2))
    assert means == {
        "t5_3b": (42.99, 42.99),
        "roe_3b": (53.48, 53.26),
        "t0_3b": (51.43, 51.43),
        "t0_11b": (60.76, 60.77),
    }
    assert rows["best_unseen"]["cells"] == {"mean": 3.20}
    assert rows["best_bigbench"]["cells"] == {"mean": 1.29}
    assert rows["roe_ranks"]["cells"]["mean"] == 77.8


def test_the_papers_tables_are_of_registered_tasks():
    gin_flags.build_run(
        (replay.Replay,),
        gin_files=["gin/replay/paper.gin"],
        bindings=["MODEL_DIR = 'anywhere'"],
    )
    names = task_registry.registry.expand("elm_unseen")
    assert len(names) == 113
    datasets = {task_registry.registry.task(name).dataset for name in names}
    for table in replay_data.read(PUBLISHED)["tables"]:
        if table["columns"]:
            assert {column["name"] for column in table["columns"]} == datasets


COMMANDS = replay_data.read(PUBLISHED)["commands"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_that_would_score_the_rest_can_be_run(name):
    program, *arguments = shlex.split(COMMANDS[name])
    runs = importlib.import_module(f"elm_jax.cli.{program}").runs()
    rewritten = gin_flags.rewrite_arguments([program, *arguments])[1:]
    gin_files = [a.partition("=")[2] for a in arguments if a.startswith("--gin_file=")]
    bindings = [
        a.partition("=")[2] for a in rewritten if a.startswith("--gin_bindings=")
    ]
    assert len(gin_files) + len(bindings) == len(arguments)
    gin_flags.build_run(runs, gin_files=gin_files, bindings=bindings)
