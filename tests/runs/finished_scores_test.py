"""Every field of a library, of what it is asked, and of an evaluation, changed once.

As `finished_test`, for the commands that add to what is there: a changed field is
refused by name, adds what is new beside what is there, or decides nothing.
"""

import dataclasses
import json
import shutil

import jax
import pytest

from elm_jax import errors
from elm_jax.checkpoints import experts, manifest
from elm_jax.evaluation import naming, racing, result_store
from elm_jax.model import decoding_spec
from elm_jax.runs import evaluate, library, placement, task_data
from tests.runs import scored
from tests.runs.toy import (
    DATA,
    ENCODER,
    TASKS,
    ask,
    build,
    make_library,
    save_expert,
    score,
)

REFUSES = "refuses"  # and names what differs
ADDS = "adds"  # beside what is there, which stays as it is
SAME = "same"  # decides nothing of the result

OTHER_LENGTHS = dataclasses.replace(DATA, feature_lengths={"inputs": 8, "targets": 8})


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    with scored.registered():
        scored.save_base(folder)
        shutil.copytree(folder / "base", folder / "base_again")
        for seed, name in enumerate(("plain", "twice", "signs"), start=1):
            save_expert(folder, name, seed)
        build(folder).run()
        shutil.copytree(folder / "library", folder / "library_again")
        score(folder).run()
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "folder")


def content(folder):
    """Returns the bytes of all files but configurations and token caches."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"config", "cache", ".lock"} & {*path.parts}
    }


def is_kept(before, after):
    """Returns whether all files are there, and only ever grew by lines at their end."""
    return all(after.get(path, b"").startswith(old) for path, old in before.items())


LIBRARY = {
    "experts": ("{MODEL_DIR}/experts/signs", ADDS),
    "data": (OTHER_LENGTHS, SAME),  # the same instances, in texts
    "extends": ("{MODEL_DIR}/library_again", SAME),  # has the same experts
    "initial_checkpoint_path": ("{MODEL_DIR}/base_again", SAME),
    "embedder": (dataclasses.replace(ENCODER, max_length=8), REFUSES),
    "text_format": ("instance", REFUSES),
    "num_keys": (3, REFUSES),
    "split": ("validation", REFUSES),
    "random_seed": (7, REFUSES),
    "library_dir": ("{MODEL_DIR}/another", ADDS),
}


def test_every_field_of_a_library_is_in_the_table():
    fields = {field.name for field in dataclasses.fields(library.BuildLibrary)}
    assert set(LIBRARY) == fields - {"model_dir"}


@pytest.mark.slow
@pytest.mark.parametrize("field", LIBRARY)
def test_a_library_is_what_is_asked_for_or_refuses(folder, field):
    value, expected = LIBRARY[field]
    before = content(folder)
    run = build(folder, **{field: value})
    if expected == REFUSES:
        with pytest.raises(errors.ElmError, match="To do: "):
            run.run()
    else:
        run.plan()
        run.run()
    after = content(folder)
    if expected == ADDS:
        assert {*before} <= {*after}
        assert after != before
    else:
        assert after == before


@pytest.mark.parametrize("field", ["text_format", "num_keys", "random_seed"])
def test_a_plan_of_a_library_refuses_other_settings(folder, field):
    with pytest.raises(errors.CheckpointError, match=field.removeprefix("random_")):
        build(folder, **{field: LIBRARY[field][0]}).plan()


QUESTIONS = {
    "tasks": ("written_ask", ADDS),
    "data": (OTHER_LENGTHS, SAME),
    "initial_checkpoint_path": ("{MODEL_DIR}/base_again", SAME),
    "embedder": (dataclasses.replace(ENCODER, max_length=8), REFUSES),
    "split": ("test", SAME),  # whose rows are those of validation, in this toy
    "num_queries": (3, ADDS),
    "random_seed": (7, SAME),
    "library_dir": ("{MODEL_DIR}/library_again", SAME),
    "votes_path": ("{MODEL_DIR}/other.jsonl", SAME),
}


def test_every_field_of_a_question_is_in_the_table():
    fields = {field.name for field in dataclasses.fields(library.Retrieve)}
    assert set(QUESTIONS) == fields - {"model_dir"}


@pytest.mark.slow
@pytest.mark.parametrize("field", QUESTIONS)
def test_an_answer_never_depends_on_the_answer_before(folder, field):
    """Votes are made anew each time: as in a folder that was never asked."""
    value, expected = QUESTIONS[field]
    run = ask(folder, **{field: value})
    if expected == REFUSES:
        with pytest.raises(errors.ElmError, match="To do: "):
            run.run()
        return
    run.run()
    votes = run.path(run.votes_path)
    again = votes.read_bytes()
    assert [json.loads(line)["task"] for line in again.splitlines()]
    (folder / "votes.jsonl").unlink(missing_ok=True)
    votes.unlink(missing_ok=True)
    run.run()
    assert votes.read_bytes() == again


SCORES = {
    "tasks": ("twice_ask", REFUSES),  # retrieval is for the others
    "data": (OTHER_LENGTHS, REFUSES),  # retrieval has others
    "initial_checkpoint_path": ("{MODEL_DIR}/base_again", SAME),
    "experts": (("{MODEL_DIR}/experts/signs",), ADDS),
    "strategies": (("retrieved", "merged_top3"), ADDS),
    "shard": ("0/2", SAME),  # a part of what is there
    "own_tasks": (True, ADDS),
    "retrieval": (library.Retrieve, SAME),
    "splits": (("validation",), ADDS),
    "max_examples": (3, ADDS),
    "batch_size": (16, SAME),
    "placement": (placement.Placement(axis_rules="fsdp"), SAME),
    "length_normalized": (True, ADDS),
    "decoding": (decoding_spec.BeamSearch(num_beams=2), SAME),  # tasks have choices
    "protocol": ("elm", REFUSES),  # which it is not
    "overlap": ("ignore", SAME),
    "random_seed": (7, ADDS),
    "race": (racing.Racing(), SAME),  # who wins it has the scores that it had before
    "device_flops": (1e12, SAME),
    "results_path": ("{MODEL_DIR}/other.jsonl", ADDS),
}


def test_every_field_of_an_evaluation_is_in_the_table():
    fields = {field.name for field in dataclasses.fields(evaluate.Evaluate)}
    assert set(SCORES) == fields - {"model_dir"}


@pytest.mark.slow
@pytest.mark.parametrize("field", SCORES)
def test_a_score_is_the_one_that_is_asked_for(folder, capsys, field):
    value, expected = SCORES[field]
    if value is library.Retrieve:
        value = ask(folder, votes_path="{MODEL_DIR}/other_votes.jsonl")
    before = content(folder)
    capsys.readouterr()
    if expected == REFUSES:
        with pytest.raises(errors.ElmError, match="To do: "):
            score(folder, **{field: value}).run()
        return
    run = score(folder, **{field: value})
    run.plan()
    run.run()
    assert ("to score: 0;" in capsys.readouterr().out) == (expected == SAME)
    after = content(folder)
    assert is_kept(before, after)
    results = run.path(run.results_path).relative_to(folder)
    assert (after[results] != before.get(results)) == (expected == ADDS)


def test_a_report_shows_the_library_as_it_is_where_growing_changed_no_choice(
    tmp_path, capsys
):
    """What was chosen before is not scored again, but its rows name the grown one."""
    folder, fields = tmp_path, {"strategies": ("retrieved", "merged_all")}
    fields["experts"] = ()
    make_library(folder, training_seed=7)
    save_expert(folder, "signs", 3, training_seed=7)
    score(folder, **fields).run()
    build(folder, experts="{MODEL_DIR}/experts/signs").run()
    capsys.readouterr()
    score(folder, **fields).run()
    assert "to score: 2; scored already: 2" in capsys.readouterr().out
    store = result_store.ResultStore(folder / "results.jsonl")
    rows = store.rows().where(metric="accuracy", kind="strategy")
    libraries = [*dict.fromkeys(row.library for row in rows)]
    assert len(libraries) == 2
    shown = naming.newest(rows)
    assert {(row.expert, row.task, row.library) for row in shown} == {
        (name, task, libraries[1])
        for name in ("retrieved", "merged_all")
        for task in TASKS
    }
    for row in shown:
        assert set(row.experts) <= {"plain", "twice", "signs"}
        assert row.overlap_with.keys() >= {"queries", "keys"}
        assert len(store.per_example(row)["example_ids"]) == row.num_examples
    before = (folder / "results.jsonl").read_bytes()
    score(folder, **fields).run()
    assert (folder / "results.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(("task", "is_cut"), [("plain_ask", False), ("long_ask", True)])
def test_lengths_are_part_of_a_score_where_they_cut(folder, capsys, task, is_cut):
    """Without a library, whose own data would have to be changed as well."""
    fields = {"retrieval": None, "strategies": ("base",), "experts": (), "tasks": task}
    score(folder, **fields).run()
    capsys.readouterr()
    longer = dataclasses.replace(DATA, feature_lengths={"inputs": 32, "targets": 8})
    score(folder, **fields, data=longer).run()
    assert f"to score: {int(is_cut)};" in capsys.readouterr().out


@pytest.mark.slow
def test_another_base_of_the_same_name_is_scored_anew(folder, capsys):
    scored.save_base(
        folder / "new", lambda p: jax.tree.map(lambda x: x * 1.5 + 0.01, p)
    )
    fields = {"retrieval": None, "strategies": ("base",), "experts": ()}
    new_base = {"initial_checkpoint_path": "{MODEL_DIR}/new/base"}
    score(folder, **fields, **new_base).run()
    assert "to score: 2; scored already: 0" in capsys.readouterr().out


def test_an_expert_of_another_base_is_refused(folder):
    shutil.rmtree(folder / "experts" / "twice")
    info = manifest.read_manifest(folder / "experts" / "plain")
    params, _ = experts.load_expert(folder / "experts" / "plain")
    info = dataclasses.replace(info, name="twice", base_fingerprint="0" * 16)
    experts.save_expert(folder / "experts" / "twice", params, info)
    for act in (score(folder).plan, score(folder).run):
        with pytest.raises(errors.ElmError, match="fingerprint"):
            act()


def test_task_data_has_the_fields_that_the_tables_know():
    names = {field.name for field in dataclasses.fields(task_data.TaskData)}
    assert {"vocabulary_path", "feature_lengths", "protocol"} <= names
