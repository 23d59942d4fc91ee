"""A report says what is missing by name, and compares no means over other prompts."""

import json

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.evaluation import result_store, results
from elm_jax.runs import report

pytestmark = pytest.mark.usefixtures("toy_tasks")


def record(
    folder,
    expert,
    dataset,
    *,
    split="test",
    metric="accuracy",
    num_examples=2,
    name="results.jsonl",
    base="0123",
    fingerprint="",
    protocol="elm",
    scoring="",
    values=(0.0, 100.0),
    **facts,
):
    cell = results.Cell(
        expert=expert,
        base_fingerprint=base,
        expert_fingerprint=fingerprint,
        task=f"{dataset}_ask",
        dataset=dataset,
        prompt="ask",
        split=split,
        protocol=protocol,
        seed=0,
        checkpoint_step=0,
        scoring=scoring,
    )
    ranked = {"chance": 50.0} if metric == "accuracy" else {}
    result_store.ResultStore(folder / name).record(
        cell,
        run_id="r",
        values={metric: float(np.mean(values))} | ranked,
        num_examples=num_examples,
        per_example={"example_ids": np.arange(2), metric: np.array(values)},
        facts=results.Facts(inputs_cut=0.0, **facts),
    )


def run(folder, **fields):
    fields = {"unseen_tasks": ("plain_ask", "signs_ask")} | fields
    report_run = report.Report(model_dir=str(folder), title="t", **fields)
    report_run.start(config="", operative_config="")
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
    sentence = "Unseen tasks without rows of split test: signs_ask."
    assert sentence in run(tmp_path)
    assert sentence in " ".join(capsys.readouterr().out.split())


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
    assert "| retrieved | – | 50.0 (0.0–100.0) | – |" in text
    assert "No mean of retrieved: it was not scored on plain_ask." in text


def test_marks_and_what_they_mean_are_in_tables_and_page(tmp_path, capsys):
    record(tmp_path, "base", "plain", ties=0.0, undistinguished=0.0)
    alike = {"undistinguished": 25.0, "undistinguished_reasons": {"<b>": 1}}
    record(tmp_path, "base", "signs", ties=50.0, **alike)
    text = run(tmp_path)
    assert "|  | plain | signs (u) | mean (u) |" in text
    assert "| 50.0 (t) (0.0–100.0) |" in text
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


def test_rows_of_release_0_1_on_fewer_examples_are_told(tmp_path):
    record(tmp_path, "base", "plain")
    record(tmp_path, "e", "plain", num_examples=5, kind="prompt")
    sentence = "Not all of plain_ask have the same examples: base on 2, e on 5."
    assert sentence in run(tmp_path)


@pytest.mark.parametrize("changes", [{"num_examples": 5}, {"scoring": "else"}])
def test_scores_on_different_examples_are_refused_by_name(tmp_path, changes):
    record(tmp_path, "base", "plain", kind="base")
    record(tmp_path, "e", "plain", kind="prompt", fingerprint="e", **changes)
    number = changes.get("num_examples", 2)
    assert (
        f"scores of plain_ask test on different examples: 2 (base), others on {number}"
        " (e)" in refusal(tmp_path)
    )


@pytest.mark.parametrize("tasks", ["seen_tasks", "composed_tasks"])
def test_scores_on_different_examples_are_refused_in_every_table(tmp_path, tasks):
    record(tmp_path, "base", "plain")
    record(tmp_path, "base", "long", kind="base")
    record(tmp_path, "e", "long", kind="prompt", num_examples=1)
    run(tmp_path)
    text = refusal(tmp_path, **{tasks: "long_ask"})
    assert "scores of long_ask test on different examples" in text


def test_experts_are_chosen_by_scores_on_the_same_examples(tmp_path):
    for name, number in (("a", 2), ("b", 1)):
        facts = {"kind": "prompt", "fingerprint": name}
        record(tmp_path, name, "plain", **facts)
        record(
            tmp_path, name, "plain", split="validation", num_examples=number, **facts
        )
    text = refusal(tmp_path, unseen_tasks="plain_ask")
    assert "scores of plain_ask validation on different examples: 2 (a)" in text


def test_no_mean_is_over_tasks_of_two_bases(tmp_path):
    record(tmp_path, "base", "plain")
    record(tmp_path, "base", "signs", base="4567")
    text = refusal(tmp_path)
    assert "rows with base_fingerprint '0123' (base on plain_ask test)" in text
    assert "'4567' (base on signs_ask test)" in text
    assert "Unseen tasks without rows of split test: plain_ask." in run(
        tmp_path, base_fingerprint="4567"
    )
    # Rows of tasks that are not shown may be of any base.
    run(tmp_path, unseen_tasks="plain_ask")


def save_expert(folder, name, *, seed):
    """Writes the manifest of an expert; returns its fingerprint."""
    info = manifest.Manifest(
        name=name,
        kind="prompt",
        base_name="base",
        base_fingerprint="0123",
        seed=seed,
        model={},
        trainable_pattern=".*",
    )
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write_manifest(folder, info)
    return info.fingerprint


def test_the_expert_that_lies_in_its_folder_is_reported(tmp_path):
    old = save_expert(tmp_path / "experts" / "e", "e", seed=1)
    facts = {"kind": "prompt", "source": "experts/e"}
    record(tmp_path, "e", "plain", fingerprint=old, **facts)
    new = save_expert(tmp_path / "experts" / "e", "e", seed=2)
    fields = {"unseen_tasks": "plain_ask"}
    sentence = "e was trained again since it was scored"
    assert sentence in run(tmp_path, **fields)
    record(tmp_path, "e", "plain", fingerprint=new, values=(100.0, 100.0), **facts)
    text = run(tmp_path, **fields)
    assert "| e | 100.0 |" in text
    assert sentence not in text
    save_expert(tmp_path / "experts" / "e", "e", seed=1)  # the old one, put back
    assert "| e | 50.0 |" in run(tmp_path, **fields)


def test_several_experts_of_a_strategy_are_told(tmp_path):
    for name in ("one", "two"):
        record(tmp_path, "retrieved", "plain", kind="strategy", fingerprint=name)
    text = run(tmp_path, unseen_tasks="plain_ask")
    assert "retrieved was scored with several experts on 1 tasks: the newest" in text


def test_an_expert_has_one_name_in_all_tables(tmp_path):
    for place, dataset in (("here", "plain"), ("there", "long")):
        facts = {"kind": "prompt", "fingerprint": place, "source": f"{place}/e"}
        record(tmp_path, "e", dataset, **facts)
    text = run(tmp_path, unseen_tasks="plain_ask", seen_tasks="long_ask")
    assert "| e (here) |" in text
    assert "| e (there) |" in text


def test_the_reports_own_merge_of_release_0_1_is_no_oracle(tmp_path):
    record(tmp_path, "e", "plain")
    record(tmp_path, "both", "plain", values=(100.0, 100.0))
    fields = {"unseen_tasks": "plain_ask"}
    assert "| oracle | 100.0" in run(tmp_path, **fields)
    text = run(tmp_path, merged_expert="both", **fields)
    assert "| oracle | 50.0" in text
    assert "| both | 100.0" in text
    assert "4 of 4 rows tell neither the kind of their expert" in text


def test_a_merge_of_release_0_1_is_no_oracle_beside_a_newer_one_of_its_name(tmp_path):
    record(tmp_path, "e", "plain", kind="prompt", fingerprint="e")
    record(tmp_path, "both", "plain", values=(100.0, 100.0), fingerprint="old")
    facts = {"kind": "merged", "fingerprint": "new", "source": "merged/both"}
    record(tmp_path, "both", "long", **facts)
    fields = {"unseen_tasks": "plain_ask", "seen_tasks": "long_ask"}
    text = run(tmp_path, merged_expert="both", **fields)
    assert "| oracle | 50.0" in text


def write_votes(folder, **counts):
    lines = [
        json.dumps({"task": f"{name}_ask", "votes": votes})
        for name, votes in counts.items()
    ]
    (folder / "votes.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_votes_are_shown_of_tasks_that_retrieval_was_scored_on(tmp_path):
    record(tmp_path, "base", "plain", kind="base")
    record(tmp_path, "base", "signs", kind="base")
    write_votes(tmp_path, plain=[["e", 5], ["f", 3]], signs=[["f", 8]])
    assert "Retrieval votes" not in run(tmp_path)
    record(tmp_path, "retrieved", "plain", kind="strategy", fingerprint="aa")
    text = run(tmp_path)
    assert "| plain_ask | 5 e | 3 f |  | 8 |" in text
    assert "| signs_ask | 8 f" not in text
    page = (tmp_path / "report" / "index.html").read_text()
    assert "the expert that 8 unlabelled instances vote for" in page


def test_marks_of_a_map_name_the_strategy_that_chose(tmp_path):
    for expert, fingerprint in (("e", "aa"), ("f", "bb")):
        record(tmp_path, expert, "plain", kind="prompt", fingerprint=fingerprint)
    for name, chosen in (("other", "bb"), ("nearest", "aa")):
        facts = {"kind": "strategy", "strategy": name, "experts": {"x": chosen}}
        record(tmp_path, name, "plain", fingerprint=chosen, **facts)
    write_votes(tmp_path, plain=[["e", 8]])
    run(tmp_path, unseen_tasks="plain_ask")
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count('<span class="mark" title="nearest">◆</span>') == 1
    assert '<span class="mark">◆</span>: nearest.' in page


def test_votes_name_the_expert_that_was_scored_or_are_left_out(tmp_path):
    for place in ("here", "there"):
        facts = {"kind": "prompt", "fingerprint": place, "source": f"{place}/e"}
        record(tmp_path, "e", "plain", **facts)
    record(tmp_path, "retrieved", "plain", kind="strategy", fingerprint="there")
    write_votes(tmp_path, plain=[["e", 8]])
    text = run(tmp_path, unseen_tasks="plain_ask")
    assert "8 e (there)" in text
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("e (there)") > 1
    write_votes(tmp_path, plain=[["f", 8]])
    text = run(tmp_path, unseen_tasks="plain_ask")
    assert "Retrieval votes" not in text
    assert "No votes of plain_ask: they are for another expert" in text


def test_old_scores_are_compared_with_what_is_reported(tmp_path):
    facts = {"kind": "prompt", "source": "experts/e"}
    record(tmp_path, "e", "plain", fingerprint="old", **facts)
    record(tmp_path, "e", "plain", fingerprint="new", **facts)
    after = {"name": "after.jsonl"} | facts
    record(tmp_path, "e", "plain", fingerprint="new", **after)
    record(tmp_path, "e", "signs", base="4567", fingerprint="new", **after)
    text = run(
        tmp_path,
        unseen_tasks="plain_ask",
        base_fingerprint="0123",
        results_after_path=str(tmp_path / "after.jsonl"),
    )
    assert "holds. 2 of 2 result rows are identical; 0 differ, 0 were not" in text
