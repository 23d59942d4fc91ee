"""What elm_eval writes and prints of scores that need care."""

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import choices
from elm_jax.evaluation import result_store
from tests.runs import scored


@pytest.fixture
def folder(scored_folder):
    return scored_folder


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture
def rows(folder):
    """The rows of one evaluation by (task, metric)."""
    all_rows = result_store.ResultStore(folder / "results.jsonl").rows()
    return {(row.dataset, row.metric): row for row in all_rows}


@pytest.mark.slow
def test_chance_is_a_guess_among_what_can_be_told_apart(rows):
    assert rows["plain", "chance"].value == 50.0
    assert rows["twice", "chance"].value == 50.0
    assert rows["signs", "chance"].value == pytest.approx(100 * (2 / 3 + 6 / 2) / 8)


def test_a_row_tells_what_was_cut_and_what_cannot_be_told_apart(rows):
    plain, twice, signs, long, written = (
        rows[key]
        for key in (
            *((name, "accuracy") for name in ("plain", "twice", "signs", "long")),
            ("written", "rougeL"),
        )
    )
    assert (plain.inputs_cut, plain.undistinguished, plain.ties) == (0.0, 0.0, 0.0)
    assert long.inputs_cut == 50.0
    assert twice.undistinguished_reasons == {choices.SAME_TEXT: 8}
    assert twice.ties == 0.0
    assert signs.undistinguished == 25.0
    assert signs.undistinguished_reasons == {choices.UNKNOWN: 2}
    assert signs.ties == 25.0
    assert (written.inputs_cut, written.undistinguished, written.ties) == (
        0,
        None,
        None,
    )
    assert len({row.data_fingerprint for row in (plain, twice, long, written)}) == 4


def test_rows_that_cannot_be_told_apart_have_their_chance(folder, rows):
    store = result_store.ResultStore(folder / "results.jsonl")
    accuracy = store.per_example(rows["signs", "accuracy"])["accuracy"]
    np.testing.assert_allclose(accuracy[:2], 100 / 3)
    assert set(accuracy[2:].tolist()) <= {0.0, 100.0}


def test_written_answers_without_an_end_are_told(folder, rows):
    row = rows["written", "rougeL"]
    store = result_store.ResultStore(folder / "results.jsonl")
    are_cut = store.per_example(row)["answers_cut"]
    assert row.answers_cut == 100.0 * are_cut.mean() > 0.0


def test_written_answers_are_kept_as_texts(folder, rows):
    store = result_store.ResultStore(folder / "results.jsonl")
    arrays = store.per_example(rows["written", "rougeL"])
    offsets, content = arrays["texts.offsets"], arrays["texts.values"].tobytes()
    assert len(offsets) == 5
    texts = [content[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False)]
    assert any(texts)


def test_the_table_marks_what_needs_care_and_says_why(folder, rows, capsys):
    scored.score(folder, "plain", "signs", "long")
    out = " ".join(capsys.readouterr().out.split())
    assert "to score: 0" in out  # the same rows, shown again
    for head in ("plain accuracy ┃", "signs accuracy (u)", "long accuracy (c)"):
        assert head in out
    assert f"{rows['signs', 'accuracy'].value:.1f} (t)" in out
    assert "long_ask 50.0 %" in out
    assert f"signs_ask 25.0 % (2 rows: {choices.UNKNOWN})" in out
    assert "signs_ask 25.0 % of base" in out


@pytest.mark.parametrize("name", ["alike", "foreign"])
def test_a_task_of_choices_that_are_all_alike_is_refused_before_any_score(folder, name):
    with pytest.raises(errors.DataError) as caught:
        scored.score(folder, "plain", name, results_path="{MODEL_DIR}/none.jsonl")
    assert f"{name}_ask test (4 rows: {choices.UNKNOWN})" in str(caught.value)
    assert not (folder / "none.jsonl").exists()


@pytest.mark.parametrize("name", ["plain", "written"])
def test_scores_that_are_not_finite_name_expert_and_task(tmp_path, name):
    scored.save_base(tmp_path, scored.broken)
    with pytest.raises(
        errors.CheckpointError, match="not finite|finite ones"
    ) as caught:
        scored.score(tmp_path, name)
    assert f"While scoring base on {name}_ask test." in caught.value.__notes__
    assert not (tmp_path / "results.jsonl").exists()


def test_choices_that_are_cut_to_the_same_tokens_are_told_and_drawn_fairly(
    folder, capsys
):
    """Half of the rows have choices that differ behind the greatest length."""
    scored.score(folder, "ends", results_path="{MODEL_DIR}/ends.jsonl")
    out = " ".join(capsys.readouterr().out.split())
    rows = result_store.ResultStore(folder / "ends.jsonl").rows()
    by_metric = {row.metric: row for row in rows}
    accuracy = by_metric["accuracy"]
    assert accuracy.undistinguished == accuracy.ties == 50.0
    assert accuracy.undistinguished_reasons == {choices.CUT: 4}
    store = result_store.ResultStore(folder / "ends.jsonl")
    values = store.per_example(accuracy)["accuracy"]
    assert set(values[1::2].tolist()) == {50.0}  # neither answer's by its place
    assert set(values[::2].tolist()) <= {0.0, 100.0}
    assert by_metric["chance"].value == 50.0
    assert "ends accuracy (u)" in out
    assert f"ends_ask 50.0 % (4 rows: {choices.CUT})" in out
    assert "ends_ask 50.0 % of base" in out
