"""What is exported says what the rows say, in the forms that others document."""

import csv
import dataclasses
import json
import typing

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from elm_jax import errors
from elm_jax.evaluation import lm_eval_results, result_store, results
from elm_jax.runs import export_results
from tests.benchmarks import simulated_store

# lm_eval/result_schema.py of lm-evaluation-harness (2026): keys of results and types.
TASK_METRICS = {"name": str, "alias": str, "sample_len": int}
EVAL_RESULTS = {
    "results": dict,
    "groups": dict,
    "group_subtasks": dict,
    "configs": dict,
    "versions": dict,
    "n-shot": dict,
    "higher_is_better": dict,
    "n-samples": dict,
    "config": dict,
    "date": float,
    "task_hashes": dict,
    "model_source": str,
    "model_name": str,
    "model_name_sanitized": str,
}
CONFIG = {
    *("model", "model_args", "batch_size", "device", "use_cache", "limit"),
    *("bootstrap_iters", "gen_kwargs", "random_seed"),
}
SIZE = simulated_store.Size(num_experts=3, prompts=(2, 1), num_rows=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    store_dir = tmp_path_factory.mktemp("store")
    simulated_store.build(store_dir, SIZE)
    store = result_store.ResultStore(store_dir / "results.jsonl")
    record_written(store)
    return store_dir


def record_written(store, **changes):
    fields = {
        "expert": "e0000",
        "base_fingerprint": "0123456789abcdef",
        "expert_fingerprint": "e0000000000000000",
        "task": 'written, "so"',
        "dataset": "written",
        "prompt": "so",
        "split": "validation",
        "protocol": "elm",
        "seed": 42,
        "checkpoint_step": 1000,
    }
    store.record(
        results.Cell(**(fields | changes)),
        run_id="r",
        values={"rouge1": 30.5, "rougeL": 100 / 3},
        num_examples=3,
        per_example={"example_ids": np.arange(3), "rougeL": np.array([0.0, 25.0, 75])},
        facts=results.Facts(
            kind="prompt", source='a\n"b', vocabulary="fedcba9876543210"
        ),
    )


def export(folder, where, **fields):
    run = export_results.ExportResults(
        **({"model_dir": str(folder), "output_dir": str(where)} | fields)
    )
    run.start(config="", operative_config="")
    return where


def rows_of(folder):
    return result_store.ResultStore(folder / "results.jsonl").rows()


def test_csv_has_every_field_of_every_row(folder, tmp_path):
    export(folder, tmp_path, formats=("csv",))
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        lines = [*csv.DictReader(file)]
    expected_rows = rows_of(folder)
    assert len(lines) == len(expected_rows) > 40
    for line, row in zip(lines, expected_rows, strict=True):
        for name, value in dataclasses.asdict(row).items():
            if isinstance(value, dict):
                assert json.loads(line[name]) == value
            elif isinstance(value, float):
                assert float(line[name]) == value
            else:
                assert line[name] == ("" if value is None else str(value))


def test_parquet_gives_the_rows_back(folder, tmp_path):
    export(folder, tmp_path, formats=("parquet",))
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.schema.field("value").type == pa.float64()
    rows = []
    for line in table.to_pylist():
        for name, hint in typing.get_type_hints(results.ResultRow).items():
            if "Mapping" in str(hint):
                line[name] = json.loads(line[name])
        rows.append(results.ResultRow(**line))
    assert tuple(rows) == rows_of(folder)


def test_examples_of_a_choice_from_two_libraries_are_there_once(tmp_path):
    folder = tmp_path / "folder"
    store = result_store.ResultStore(folder / "results.jsonl")
    store.record(
        results.Cell(
            **dict.fromkeys(("expert", "base_fingerprint", "task"), "x"),
            **dict.fromkeys(("dataset", "prompt", "split", "protocol"), "x"),
            seed=42,
            checkpoint_step=1,
        ),
        run_id="r",
        values={"accuracy": 50.0},
        num_examples=2,
        per_example={"example_ids": np.arange(2), "accuracy": np.array([0.0, 100.0])},
        facts=results.Facts(kind="strategy", library="small"),
    )
    (row,) = store.rows()
    store.append(dataclasses.replace(row, library="grown"))
    export(folder, tmp_path, formats=("examples",))
    lines = parquet.read_table(tmp_path / "examples.parquet").to_pylist()
    assert len(store.rows()) == 2
    assert [line["value"] for line in lines] == [0.0, 100.0]


def test_examples_have_a_row_for_each_score_of_an_example(folder, tmp_path):
    export(folder, tmp_path, formats=("examples",))
    lines = parquet.read_table(tmp_path / "examples.parquet").to_pylist()
    assert len(lines) == (3 + 3) * 3 * 10 + 3  # experts and others, tasks, examples
    store = result_store.ResultStore(folder / "results.jsonl")
    by_cell = {}
    for line in lines:
        key = (line["expert"], line["task"], line["metric"])
        by_cell.setdefault(key, {})[line["example_id"]] = line["value"]
    for row in store.rows():
        arrays = store.per_example(row)
        if row.metric in arrays:
            values = by_cell.pop((row.expert, row.task, row.metric))
            assert [values[i] for i in arrays["example_ids"]] == [*arrays[row.metric]]
    assert not by_cell


@pytest.fixture(scope="module")
def lm_eval(folder, tmp_path_factory):
    where = tmp_path_factory.mktemp("lm_eval")
    export(folder, where, formats=("lm_eval",), split="validation")
    return where / "lm_eval"


def results_of(lm_eval, model):
    (path,) = (lm_eval / model).iterdir()
    assert path.name.startswith("results_2")
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_each_model_has_results_with_the_fields_that_lm_eval_documents(lm_eval):
    models = sorted(path.name for path in lm_eval.iterdir())
    assert models == ["base", "e0000", "e0001", "e0002", "multitask", "retrieved"]
    for model in models:
        harness_results = results_of(lm_eval, model)
        assert harness_results.keys() == EVAL_RESULTS.keys()
        for name, kind in EVAL_RESULTS.items():
            assert isinstance(harness_results[name], kind), name
        assert harness_results["config"].keys() == CONFIG
        tasks = harness_results["results"].keys()
        for name in ("configs", "versions", "n-shot", "higher_is_better", "n-samples"):
            assert harness_results[name].keys() == tasks
        for scores in (
            *harness_results["results"].values(),
            *harness_results["groups"].values(),
        ):
            for name, kind in TASK_METRICS.items():
                assert isinstance(scores[name], kind)
            metric_names = scores.keys() - TASK_METRICS.keys() - {"sample_count"}
            assert all(name.endswith(",none") for name in metric_names)
        assert {
            t
            for subtasks in harness_results["group_subtasks"].values()
            for t in subtasks
        } == tasks


def test_rows_that_were_left_out_are_told_as_lm_eval_tells_them(folder, lm_eval):
    harness_results = results_of(lm_eval, "e0001")
    assert harness_results["config"]["limit"] is None
    rows = [
        row
        for row in result_store.ResultStore(folder / "results.jsonl").rows()
        if (row.expert, row.metric) == ("e0001", "accuracy")
    ]
    for number, left_out in enumerate((0, 5)):
        model_rows = [
            dataclasses.replace(row, split_rows=row.num_examples + left_out * place)
            for place, row in enumerate(rows)
        ]
        changed = lm_eval_results.of(
            "e0001", model_rows, load=lambda _: {}, timestamp=0.0
        )
        assert changed["n-samples"] == {
            row.task: {"original": row.split_rows, "effective": row.num_examples}
            for row in model_rows
        }
        cut = max(row.num_examples for row in model_rows[1:]) if number else None
        assert changed["config"]["limit"] == cut


def test_scores_are_fractions_with_standard_errors_as_lm_eval_has_them(folder, lm_eval):
    store = result_store.ResultStore(folder / "results.jsonl")
    by_task = results_of(lm_eval, "e0001")["results"]
    accuracy_rows = [
        r for r in store.rows() if (r.expert, r.metric) == ("e0001", "accuracy")
    ]
    assert by_task.keys() == {row.task for row in accuracy_rows}
    for row in accuracy_rows:
        values = store.per_example(row)["accuracy"] / 100.0
        scores = by_task[row.task]
        assert scores["acc,none"] == pytest.approx(row.value / 100.0, abs=1e-12)
        assert scores["acc,none"] == pytest.approx(values.mean())
        error = np.std(values.astype(np.float64), ddof=1) / len(values) ** 0.5
        assert scores["acc_stderr,none"] == pytest.approx(error, rel=1e-6)
        assert scores["sample_len"] == 10


def test_a_dataset_is_a_group_with_the_mean_over_its_prompts(folder, lm_eval):
    harness_results = results_of(lm_eval, "e0001")
    assert harness_results["group_subtasks"]["data00"] == [
        "data00_ask000",
        "data00_ask001",
    ]
    scores = [
        harness_results["results"][t]["acc,none"]
        for t in ("data00_ask000", "data00_ask001")
    ]
    group = harness_results["groups"]["data00"]
    assert group["acc,none"] == pytest.approx(sum(scores) / 2)
    assert group["sample_count"] == {"acc,none": 20}


def test_written_answers_keep_the_numbers_of_their_metrics(lm_eval):
    harness_results = results_of(lm_eval, "e0000")
    scores = harness_results["results"]['written, "so"']
    assert scores["rougeL,none"] == 100 / 3
    assert scores["rougeL_stderr,none"] == pytest.approx(
        np.std([0, 25, 75], ddof=1) / 3**0.5
    )
    assert scores["rouge1_stderr,none"] == "N/A"
    assert (
        harness_results["configs"]['written, "so"']["output_type"] == "generate_until"
    )
    assert (
        harness_results["configs"]["data00_ask000"]["output_type"] == "multiple_choice"
    )


def test_the_hub_gets_a_file_for_each_benchmark_with_the_fields_it_documents(
    folder, tmp_path
):
    export(
        folder,
        tmp_path,
        formats=("hub",),
        split="validation",
        experts=("e000*",),
        hub_benchmarks={
            "data00": "aps/super_glue:copa",
            "written": f"a/b:c@{'0123456789' * 4}",
            "elsewhere": "a/b:d",
        },
        hub_source={"url": "https://example.com/report", "name": "Report"},
    )
    models = {path.name for path in (tmp_path / "hub").iterdir()}
    assert models == {"e0000", "e0001", "e0002"}
    where = tmp_path / "hub" / "e0000" / ".eval_results"
    assert {path.name for path in where.iterdir()} == {"data00.yaml", "written.yaml"}
    (entry,) = yaml.safe_load((where / "data00.yaml").read_text())
    values = [
        row.value
        for row in rows_of(folder)
        if (row.expert, row.dataset, row.metric) == ("e0000", "data00", "accuracy")
    ]
    assert entry.pop("value") == sum(values) / 2
    notes = entry.pop("notes")
    assert entry == {
        "dataset": {"id": "aps/super_glue", "task_id": "copa"},
        "source": {"url": "https://example.com/report", "name": "Report"},
    }
    assert "mean over 2 prompts" in notes
    assert "split validation" in notes
    (written,) = yaml.safe_load((where / "written.yaml").read_text())
    assert written["dataset"]["revision"] == "0123456789" * 4
    assert written["value"] == 100 / 3


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"formats": ("hub",)}, "with the benchmarks"),
        ({"hub_benchmarks": {"a": "b/c:d"}}, "or neither"),
        ({"formats": ("hub",), "hub_benchmarks": {"a": "b"}}, "owner/name:task"),
        ({"hub_source": {"name": "x"}}, "hub_source of name"),
        ({"hub_source": {"url": "x", "date": "y"}}, "hub_source of url, date"),
        ({"formats": ("xlsx",)}, "formats"),
    ],
    ids=str,
)
def test_what_no_format_can_be_made_of_is_refused(fields, text):
    with pytest.raises(errors.ConfigError, match=text):
        export_results.ExportResults(model_dir="anywhere", **fields)


def test_a_store_without_rows_or_without_those_of_the_split_is_told(folder, tmp_path):
    with pytest.raises(errors.DataError, match="no result rows"):
        export(tmp_path, tmp_path / "x")
    with pytest.raises(errors.DataError, match="it has rows of split validation"):
        export(folder, tmp_path / "x", split="tset")
    with pytest.raises(errors.DataError, match="no rows of nobody"):
        export(folder, tmp_path / "x", split="validation", experts=("nobody",))


def test_files_of_a_model_mix_no_seeds_or_protocols(tmp_path):
    store = result_store.ResultStore(tmp_path / "results.jsonl")
    record_written(store)
    record_written(store, seed=7)
    fields = {"formats": ("lm_eval",), "split": "validation"}
    with pytest.raises(errors.DataError, match="random_seed"):
        export(tmp_path, tmp_path / "out", **fields)
    export(tmp_path, tmp_path / "out", random_seed=7, **fields)
    (path,) = (tmp_path / "out" / "lm_eval" / "e0000").iterdir()
    assert json.loads(path.read_text())["config"]["random_seed"] == 7
    export(tmp_path, tmp_path / "csv", formats=("csv",))  # which tells them apart


def test_trainings_with_several_seeds_are_models_of_their_own(tmp_path):
    store = result_store.ResultStore(tmp_path / "results.jsonl")
    for seed in (1, 2):
        store.append(
            results.ResultRow(
                **{
                    **dataclasses.asdict(simulated_row()),
                    "expert_fingerprint": f"{seed}",
                    "training_seed": seed,
                }
            )
        )
    where = export(tmp_path, tmp_path / "out", formats=("lm_eval",), split="test")
    names = {path.name for path in (where / "lm_eval").iterdir()}
    assert names == {"e (seed 1)", "e (seed 2)"}


def simulated_row():
    return results.ResultRow(
        expert="e",
        base_fingerprint="0",
        task="t",
        dataset="d",
        prompt="p",
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=1,
        run_id="r",
        metric="accuracy",
        value=50.0,
        num_examples=2,
        kind="prompt",
        recipe="same",
    )


def test_damaged_values_are_refused(folder, tmp_path):
    store = result_store.ResultStore(tmp_path / "results.jsonl")
    record_written(store)
    (path,) = (tmp_path / "per_example").iterdir()
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    for name in ("examples", "lm_eval"):
        with pytest.raises(errors.DataError, match="altered"):
            export(tmp_path, tmp_path / "out", formats=(name,), split="validation")
