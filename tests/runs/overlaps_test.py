"""elm_eval refuses to score an expert on rows that it was trained on, or says so."""

import dataclasses
import json
import shutil

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.disk import seals
from elm_jax.evaluation import result_store
from elm_jax.library import index
from elm_jax.reporting import marks
from elm_jax.runs import queries, strategies
from tests.runs import scored, toy

pytestmark = pytest.mark.usefixtures("toy_tasks")


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
    fields = {
        "experts": ("{MODEL_DIR}/experts/*",),
        "results_path": "{MODEL_DIR}/overlaps.jsonl",
    }
    scored.score(folder, *names, **(fields | changes))
    return {
        (row.expert, row.dataset): row
        for row in result_store.ResultStore(folder / "overlaps.jsonl").rows()
    }


def test_rows_that_an_expert_was_trained_on_are_refused_before_any_score(folder):
    with pytest.raises(errors.DataError) as caught:
        score(folder, "long", "signs", "twice")
    message = "100.0 % of twice_ask test for plain, 75.0 % of signs_ask test for plain"
    assert message in str(caught.value)
    assert 'evaluate.Evaluate.overlap = "mark"' in str(caught.value)
    assert not (folder / "overlaps.jsonl").exists()


@pytest.mark.slow
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


@pytest.mark.slow
def test_nothing_is_compared_if_one_says_so(folder):
    rows = score(folder, "signs", overlap="ignore")
    assert rows["plain", "signs"].overlap is None
    assert rows["plain", "signs"].overlap_unknown is None


def ask(folder, *names):
    """Scores the base and what a library of `plain` gives, on some tasks."""
    retrieval = queries.Queries(embedder=toy.ENCODER, num_queries=2)
    return score(
        folder,
        *names,
        experts=(),
        strategies=("base", "retrieved"),
        retrieval=retrieval,
        overlap="mark",
    )


@pytest.mark.slow
def test_rows_are_compared_with_queries_and_keys_of_the_library(folder):
    toy.build(folder, experts=("{MODEL_DIR}/experts/plain",)).run()
    rows = ask(folder, "twice")
    # Of eight rows, the same in all splits and tasks, two ask and four are keys.
    overlap = rows["retrieved", "twice"].overlap_with
    assert overlap["queries"] == 25.0
    assert overlap["keys"] == 50.0
    (owner,) = index.open_index(folder / "library").experts
    (source,) = owner.sources
    ((_, asking),) = [
        (question.task, question.rows)
        for question in queries.Queries(embedder=toy.ENCODER, num_queries=2).ask(
            toy.build(folder), ["twice_ask"], toy.DATA, base_path="{MODEL_DIR}/base"
        )
    ]
    both = {*asking} & {*source.rows}
    assert overlap["queries in keys"] == 50.0 * len(both)
    assert rows["base", "twice"].overlap_with == {"base": None}
    legend = " ".join(marks.legend([*rows.values()]))
    assert (
        "also, or nearly, rows that asked the library for experts: twice_ask" in legend
    )
    assert "rows behind the library's keys: twice_ask 50.0 %" in legend
    assert "Not compared with rows that the base was trained on" in legend


@pytest.mark.slow
def test_keys_whose_rows_are_not_at_hand_are_not_compared(folder):
    toy.build(folder, experts=("{MODEL_DIR}/experts/plain",)).run()
    shutil.rmtree(folder / "cache" / "plain_ask")
    overlap = ask(folder, "twice")["retrieved", "twice"].overlap_with
    assert overlap == {
        "base": None,
        "queries": 25.0,
        "keys": None,
        "queries in keys": None,
    }


@pytest.mark.slow
def test_keys_of_other_rows_than_the_manifest_tells_are_not_compared(folder):
    toy.build(folder, experts=("{MODEL_DIR}/experts/plain",)).run()
    (owner,) = index.open_index(folder / "library").experts
    path = folder / "library" / index.RECORD
    record = json.loads(path.read_text())
    record["experts"][0]["texts_sha256"] = "0" * 64
    del record["digest"]
    path.write_text(json.dumps(seals.seal(record)))
    assert ask(folder, "twice")["retrieved", "twice"].overlap_with["keys"] is None


@pytest.mark.slow
def test_rows_that_the_base_was_trained_on_are_told_and_not_refused(folder):
    params, info = toy.experts.load_expert(folder / "base")
    expert_info = manifest.read_manifest(folder / "experts" / "plain")
    info = dataclasses.replace(info, tasks=expert_info.tasks, data=expert_info.data)
    shutil.rmtree(folder / "base")
    toy.experts.save_expert(folder / "base", params, info)
    rows = score(folder, "signs", experts=())
    assert rows["base", "signs"].overlap_with == {"base": 75.0}
    assert rows["base", "signs"].overlap is None
    legend = " ".join(marks.legend([*rows.values()]))
    assert "rows that the base was trained on: signs_ask 75.0 %" in legend


def test_damaged_training_rows_are_refused_with_both_ways_out(folder):
    (path,) = folder.glob("cache/plain_ask/train-*/arrays.bin")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for action in ("refuse", "mark"):
        with pytest.raises(errors.DataError) as caught:
            score(folder, "signs", overlap=action)
        assert f"the token cache {path.parent} is damaged" in str(caught.value)
        assert "Delete that folder, and build it again" in str(caught.value)
        assert 'evaluate.Evaluate.overlap = "ignore"' in str(caught.value)
    rows = score(folder, "signs", overlap="ignore")
    assert rows["plain", "signs"].overlap_with == {}
