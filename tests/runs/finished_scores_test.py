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


@pytest.fixture(scope="module")
def grown_before(tmp_path_factory):
    """A folder with a library, one that has an expert more, and one of two seeds."""
    folder = tmp_path_factory.mktemp("grown")
    with scored.registered():
        make_library(folder, training_seed=7)
        for seed, name in ((7, "signs"), (8, "alike")):
            save_expert(folder, name, 3, training_seed=seed)
        for name, added in (("grown", "signs"), ("mixed", "alike")):
            of_name = {"library_dir": f"{{MODEL_DIR}}/{name}"}
            build(folder, extends="{MODEL_DIR}/library", **of_name).run()
            build(folder, experts=f"{{MODEL_DIR}}/experts/{added}", **of_name).run()
    return folder


@pytest.fixture
def grown(grown_before, tmp_path):
    return shutil.copytree(grown_before, tmp_path / "folder")


def scores_by(folder, library, **changes):
    """Scores strategies by a library; returns how many cells, and what is shown."""
    retrieval = ask(folder, library_dir=f"{{MODEL_DIR}}/{library}")
    strategies = {"strategies": ("retrieved", "merged_all"), "experts": ()}
    score(folder, retrieval=retrieval, **strategies, **changes).run()
    store = result_store.ResultStore(folder / "results.jsonl")
    shown = naming.newest(store.rows().where(metric="accuracy", kind="strategy"))
    for row in shown:
        assert len(store.per_example(row)["example_ids"]) == row.num_examples
    return {(row.expert, row.task): row for row in shown}


@pytest.mark.slow
def test_newest_scores_are_of_the_library_that_was_asked_last(grown, capsys):
    """What is chosen as before is not scored again, but told of the new library."""
    before = scores_by(grown, "library")
    assert {key[1] for key in before} == {*TASKS}
    (small,) = {row.library for row in before.values()}
    capsys.readouterr()
    after = scores_by(grown, "grown")
    assert "to score: 2; scored already: 2" in capsys.readouterr().out
    (large,) = {row.library for row in after.values()}
    assert after.keys() == before.keys()
    assert large not in ("", small)
    for key, row in after.items():
        assert (row.value == before[key].value) or key[0] == "merged_all"
        assert row.overlap_with.keys() >= {"queries", "keys"}
    assert scores_by(grown, "library") == before  # its last expert was retired
    assert "to score: 0; scored already: 4" in capsys.readouterr().out
    content = (grown / "results.jsonl").read_bytes()
    assert scores_by(grown, "library") == before
    assert (grown / "results.jsonl").read_bytes() == content


@pytest.mark.slow
def test_scores_of_a_library_of_several_seeds_are_shown_as_well(grown, capsys):
    """It has no name of its own, as its trainings are no repetition of one another."""
    before = scores_by(grown, "library")
    capsys.readouterr()
    after = scores_by(grown, "mixed")
    assert capsys.readouterr().out.count("retrieved") >= 1
    assert {row.library for row in after.values()} == {""}
    assert after.keys() == before.keys()


@pytest.mark.slow
def test_marks_of_known_rows_stay_where_these_are_not_compared_again(grown):
    """The experts and the rows are the same; what a library's keys are need not be."""
    path = grown / "results.jsonl"
    scores_by(grown, "library")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["overlap"], line["overlap_with"] = 40.0, {"base": 10.0, "keys": 5.0}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    row = scores_by(grown, "grown", overlap="ignore")["retrieved", TASKS[0]]
    assert row.library not in ("", lines[-1]["library"])
    assert (row.overlap, row.overlap_with) == (40.0, {"base": 10.0})


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
