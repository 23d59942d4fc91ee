"""A report says what is missing by name, and compares no means over other prompts."""

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import results
from elm_jax.runs import report
from tests.runs import scored


@pytest.fixture(autouse=True)
def toy_tasks():
    with scored.registered():
        yield


def record(
    folder,
    expert,
    dataset,
    *,
    split="test",
    metric="accuracy",
    num_examples=2,
    **facts,
):
    cell = results.Cell(
        expert=expert,
        base_fingerprint="0123",
        task=f"{dataset}_ask",
        dataset=dataset,
        prompt="ask",
        split=split,
        protocol="elm",
        seed=0,
        checkpoint_step=0,
    )
    ranked = {"chance": 50.0} if metric == "accuracy" else {}
    results.ResultStore(folder / "results.jsonl").record(
        cell,
        run_id="r",
        values={metric: 50.0} | ranked,
        num_examples=num_examples,
        per_example={"example_ids": np.arange(2), metric: np.array([0.0, 100.0])},
        facts=results.Facts(inputs_cut=0.0, **facts),
    )


def run(folder, **fields):
    fields = {"unseen_tasks": ("plain_ask", "signs_ask")} | fields
    one = report.Report(model_dir=str(folder), title="t", **fields)
    one.start(config="", operative_config="")
    return (folder / "report" / "tables.md").read_text()


def refusal(folder, **fields):
    with pytest.raises(errors.DataError) as caught:
        run(folder, **fields)
    return " ".join(str(caught.value).split())


def test_a_split_without_rows_is_named_with_those_that_there_are(tmp_path):
    record(tmp_path, "base", "plain", split="train")
    text = refusal(tmp_path, split="validation")
    assert "no rows of accuracy in split 'validation' for the unseen tasks" in text
    assert "plain_ask, signs_ask" in text
    assert "rows of them in split train, by accuracy, chance." in text


def test_tasks_without_rows_are_named_with_those_that_there_are(tmp_path):
    record(tmp_path, "base", "long")
    text = refusal(tmp_path)
    assert "for the unseen tasks plain_ask, signs_ask in" in text
    assert "it has rows of long_ask in split test" in text


def test_a_task_that_lacks_rows_is_named_below_what_is_shown(tmp_path, capsys):
    record(tmp_path, "base", "plain")
    told = "Unseen tasks without rows of split test: signs_ask."
    assert told in run(tmp_path)
    assert told in " ".join(capsys.readouterr().out.split())


def test_tasks_with_written_answers_alone_make_a_report(tmp_path):
    record(tmp_path, "base", "written", metric="rougeL")
    text = run(tmp_path, unseen_tasks="written_ask")
    assert "Experts on unseen tasks: rougeL" in text
    assert "chance" not in text


def test_a_mean_over_fewer_prompts_is_none_and_is_told(tmp_path):
    for dataset in ("plain", "signs"):
        record(tmp_path, "base", dataset)
    record(tmp_path, "retrieved", "signs")
    text = run(tmp_path)
    assert "| retrieved | – | **50.0** (0.0–100.0) | – |" in text
    assert "No mean of retrieved: it was not scored on plain_ask." in text


def test_marks_and_what_they_mean_are_in_tables_and_page(tmp_path, capsys):
    record(tmp_path, "base", "plain", ties=0.0, undistinguished=0.0)
    alike = {"undistinguished": 25.0, "undistinguished_reasons": {"<b>": 1}}
    record(tmp_path, "base", "signs", ties=50.0, **alike)
    text = run(tmp_path)
    assert "|  | plain | signs (u) | mean (u) |" in text
    assert "| **50.0 (t)** (0.0–100.0) |" in text
    out = " ".join(capsys.readouterr().out.split())
    assert "signs_ask 25.0 % (1 rows: <b>)" in out
    page = (tmp_path / "report" / "index.html").read_text()
    assert '<th scope="col">signs<sup>u</sup></th>' in page
    assert "50.0<sup>t</sup>" in page
    assert "signs_ask 25.0 % (1 rows: &lt;b&gt;)" in page
    assert "&lt;sup&gt;" not in page


def test_rows_of_an_earlier_version_are_told(tmp_path):
    record(tmp_path, "base", "plain")
    lines = (tmp_path / "results.jsonl").read_text().replace('"inputs_cut": 0.0, ', "")
    (tmp_path / "results.jsonl").write_text(lines)
    assert "1 of 1 rows are of an earlier version" in run(tmp_path)


def test_rows_of_one_task_on_different_data_are_refused(tmp_path):
    record(tmp_path, "base", "plain", data_fingerprint="aa")
    record(tmp_path, "old", "plain")  # of an earlier version: it does not tell
    assert "old" in run(tmp_path)
    record(tmp_path, "e", "plain", data_fingerprint="bb")
    text = refusal(tmp_path)
    assert "base on plain_ask test was scored on other tokens and texts (aa)" in text
    assert "than e (bb)" in text


def test_rows_of_fewer_examples_are_told(tmp_path):
    record(tmp_path, "base", "plain")
    record(tmp_path, "e", "plain", num_examples=5)
    told = "Not all of plain_ask have the same examples: base on 2, e on 5."
    assert told in run(tmp_path)
