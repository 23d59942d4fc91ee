"""The examples behind a number are shown as they were scored, or refused."""

import dataclasses
import json

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import result_store
from elm_jax.runs import show_examples
from tests.runs import scored

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture
def show(scored_folder, tmp_path):
    """Shows examples; returns the lines of JSON."""

    def run(*names, **fields):
        show_run = show_examples.ShowExamples(
            model_dir=str(scored_folder),
            tasks=tuple(f"{name}_ask" for name in names),
            output_path=str(tmp_path / "examples.jsonl"),
            **({"data": scored.make_data()} | fields),
        )
        show_run.start(config="", operative_config="")
        lines = (tmp_path / "examples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return run


@pytest.mark.parametrize("name", ["plain", "twice", "signs"])
def test_log_probabilities_and_predictions_give_the_score_again(
    show, scored_folder, name
):
    examples = show(name, max_examples=0)
    rows = result_store.ResultStore(scored_folder / "results.jsonl").rows()
    (row,) = (r for r in rows if (r.dataset, r.metric) == (name, "accuracy"))
    assert len(examples) == row.num_examples
    credits = []
    for example, (prompt, choices, answer) in zip(
        examples, scored.ROWS[name], strict=True
    ):
        assert (example["inputs"], example["choices"]) == (prompt, list(choices))
        assert example["target"] == answer
        best = max(example["log_probabilities"])
        pairs = zip(example["log_probabilities"], choices, strict=True)
        winners = {choice for score, choice in pairs if score == best}
        assert example["prediction"] in winners
        credits.append(100.0 * (answer in winners) / len(winners))
        assert example["score"] == pytest.approx(credits[-1])
    assert row.value == pytest.approx(np.mean(credits))


def test_written_answers_are_shown_as_they_were_decoded(show, scored_folder):
    examples = show("written", max_examples=0)
    rows = result_store.ResultStore(scored_folder / "results.jsonl").rows()
    row = next(r for r in rows if r.dataset == "written")
    arrays = result_store.ResultStore(scored_folder / "results.jsonl").per_example(row)
    content, ends = arrays["texts.values"].tobytes(), arrays["texts.offsets"]
    for i, example in enumerate(examples):
        assert example["prediction"] == content[ends[i] : ends[i + 1]].decode()
        assert example["prediction_cut"] == arrays["answers_cut"][i]
        assert example["target"] == f"dog {i}"
        assert (example["choices"], example["metric"]) == ([], "rougeL")


def test_a_cut_prompt_is_shown_as_the_model_read_it(show, capsys):
    first, *_, last = show("long", max_examples=0)
    assert first["inputs_cut"]
    assert scored.LONG.startswith(first["inputs"])
    assert 0 < len(first["inputs"]) < len(scored.LONG)
    assert (last["inputs_cut"], last["inputs"]) == (False, "Row 3 ?")
    assert "inputs, cut  the dog sees the cat" in capsys.readouterr().out


def test_right_and_wrong_ones_are_parts_of_all_up_to_the_number_asked_for(show, capsys):
    parts = {w: show("signs", which=w, max_examples=0) for w in ("right", "wrong")}
    assert sorted(e["example_id"] for part in parts.values() for e in part) == list(
        range(8)
    )
    assert all(e["score"] == 100.0 for e in parts["right"])
    assert [e["score"] for e in parts["wrong"][:2]] == [pytest.approx(100 / 3)] * 2
    capsys.readouterr()
    assert len(show("signs", max_examples=3)) == 3
    out = capsys.readouterr().out
    assert "base on signs_ask test: accuracy" in out
    assert "over 8 examples; all: 8" in out
    assert out.count("  example ") == 3


def test_the_same_examples_are_the_same_bytes(show, tmp_path):
    show("signs", "written")
    before = (tmp_path / "examples.jsonl").read_bytes()
    show("signs", "written")
    assert (tmp_path / "examples.jsonl").read_bytes() == before


def test_tokens_other_than_those_that_were_scored_are_refused(show):
    data = dataclasses.replace(
        scored.make_data(), feature_lengths={"inputs": 32, "targets": 8}
    )
    with pytest.raises(errors.DataError, match="that was scored on"):
        show("long", data=data)
    assert show("plain", data=data)  # nothing is cut there: the same tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"experts": ("bse",)},
            "experts bse on .* rows of experts base, in split test",
        ),
        ({"split": "train"}, "in split 'train' .* in split test"),
    ],
)
def test_rows_that_are_not_there_are_named_with_those_that_are(show, fields, message):
    with pytest.raises(errors.DataError, match=f"(?s){message}"):
        show("plain", **fields)


def test_rows_of_an_earlier_version_are_refused(show, scored_folder, tmp_path):
    for line in (scored_folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        del row["data_fingerprint"]
        with (tmp_path / "old.jsonl").open("a") as file:
            file.write(f"{json.dumps(row)}\n")
    (tmp_path / "per_example").symlink_to(scored_folder / "per_example")
    with pytest.raises(errors.DataError, match="of an earlier version"):
        show("plain", results_path=str(tmp_path / "old.jsonl"))


def test_a_row_of_an_earlier_version_among_others_is_left_out_and_told(
    show, scored_folder, tmp_path, capsys
):
    for line in (scored_folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        old = row | {"expert": "old"}
        del old["data_fingerprint"]
        with (tmp_path / "mixed.jsonl").open("a") as file:
            file.write(f"{json.dumps(old)}\n{line}\n")
    (tmp_path / "per_example").symlink_to(scored_folder / "per_example")
    examples = show("plain", results_path=str(tmp_path / "mixed.jsonl"))
    assert {example["expert"] for example in examples} == {"base"}
    message = "left out: a row of old on plain_ask test of an earlier version"
    assert message in " ".join(capsys.readouterr().out.split())


def test_lines_tell_base_protocol_and_seed(show, scored_folder):
    row = result_store.ResultStore(scored_folder / "results.jsonl").rows()[0]
    names = ("base_fingerprint", "protocol", "seed")
    for example in show("plain"):
        assert [example[name] for name in names] == [
            getattr(row, name) for name in names
        ]


def test_a_metric_of_a_corpus_has_no_right_examples(show, scored_folder, tmp_path):
    for line in (scored_folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["metric"] == "rougeL":
            (tmp_path / "bleu.jsonl").write_text(json.dumps(row | {"metric": "bleu"}))
    (tmp_path / "per_example").symlink_to(scored_folder / "per_example")
    where = {"results_path": str(tmp_path / "bleu.jsonl")}
    assert [example["score"] for example in show("written", **where)] == [None] * 4
    with pytest.raises(errors.DataError, match="which = 'right' with bleu"):
        show("written", which="right", **where)


def test_fewer_than_no_examples_are_refused(show):
    with pytest.raises(errors.ConfigError, match="max_examples = -1"):
        show("plain", max_examples=-1)
