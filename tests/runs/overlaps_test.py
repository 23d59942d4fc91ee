"""elm_eval refuses to score an expert on rows that it was trained on, or says so."""

import dataclasses
import shutil

import pytest

from elm_jax import errors
from elm_jax.evaluation import result_store
from elm_jax.runs import strategies
from tests.runs import finished_scores_test as toy
from tests.runs import scored


@pytest.fixture(autouse=True)
def toy_tasks():
    with scored.registered():
        yield


@pytest.fixture
def folder(scored_folder, tmp_path):
    """Has an expert of `plain`: its rows are those of `twice`, six also of `signs`."""
    shutil.copytree(scored_folder, folder := tmp_path / "folder")
    data = scored.make_data().opened(
        lambda path: path.replace("{MODEL_DIR}", str(folder))
    )
    rows = data.open("plain_ask", "train")
    save_expert(folder, "plain", data={"plain_ask": data.describe(rows)})
    return folder


def save_expert(folder, name, **changes):
    base, info = toy.experts.load_expert(folder / "base")
    info = dataclasses.replace(
        info, name=name, kind="prompt", tasks=("plain_ask",), **changes
    )
    toy.experts.save_expert(folder / "experts" / name, base, info)


def score(folder, *names, **changes):
    given = {
        "experts": ("{MODEL_DIR}/experts/*",),
        "results_path": "{MODEL_DIR}/overlaps.jsonl",
    }
    scored.score(folder, *names, **(given | changes))
    return {
        (row.expert, row.dataset): row
        for row in result_store.ResultStore(folder / "overlaps.jsonl").rows()
    }


def test_rows_that_an_expert_was_trained_on_are_refused_before_any_score(folder):
    with pytest.raises(errors.DataError) as caught:
        score(folder, "long", "signs", "twice")
    told = "100.0 % of twice_ask test for plain, 75.0 % of signs_ask test for plain"
    assert told in str(caught.value)
    assert 'evaluate.Evaluate.overlap = "mark"' in str(caught.value)
    assert not (folder / "overlaps.jsonl").exists()


def test_the_row_says_so_where_it_is_allowed_and_the_table_marks_it(folder, capsys):
    rows = score(folder, "signs", "written", overlap="mark")
    assert rows["plain", "signs"].overlap == 75.0
    assert rows["plain", "signs"].overlap_unknown == 0
    assert rows["base", "signs"].overlap is None
    out = " ".join(capsys.readouterr().out.split())
    assert "signs_ask 75.0 % of plain" in out
    assert "(t, o)" in out
    # What is scored already is not refused, nor compared again.
    shutil.rmtree(folder / "cache" / "plain_ask")
    score(folder, "signs", "written")
    assert "to score: 0" in capsys.readouterr().out


def test_a_strategy_that_takes_the_expert_is_refused_too(folder):
    strategy = strategies.Expert(path="{MODEL_DIR}/experts/plain")
    with pytest.raises(errors.DataError, match=r"75\.0 % of signs_ask test"):
        score(folder, "signs", experts=(), strategies=(strategy,))


def test_training_rows_that_are_not_at_hand_are_told_to_be_not_compared(folder, capsys):
    save_expert(folder, "imported")
    shutil.rmtree(folder / "cache" / "plain_ask")
    rows = score(folder, "signs")
    for name in ("plain", "imported"):
        assert rows[name, "signs"].overlap is None
        assert rows[name, "signs"].overlap_unknown == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "not compared, or in part, for 2 experts" in out
    assert "Not compared with their training rows (o)" in out
    assert "2 of 3 candidates" in out


def test_nothing_is_compared_if_one_says_so(folder):
    rows = score(folder, "signs", overlap="ignore")
    assert rows["plain", "signs"].overlap is None
    assert rows["plain", "signs"].overlap_unknown is None
