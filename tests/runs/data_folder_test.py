"""A missing data folder is what is said first, whatever else is missing."""

import dataclasses
import functools

import pytest

from elm_jax import errors
from elm_jax.data import serving, sources, tasks
from elm_jax.runs import cache_tasks, data_folder, evaluate, library, train
from elm_jax.runs import tasks as list_tasks
from elm_jax.training import optimizers
from tests.runs import scored

TOLD = r"no data folder '{}', and 2 of 3 tasks .* such as far_ask \(.*example\.org"


@pytest.fixture
def far():
    """Beside the toy tasks, one read from a file and one that lies here or there."""
    with scored.registered():
        toy_task = tasks.registry.task("plain_ask")
        assert isinstance(toy_task, tasks.Task)
        files = sources.FileRows(
            sources.json_lines, {"train": ["a.jsonl"]}, origin="example.org"
        )
        same = {"train": "train"}
        generated = sources.GeneratedRows(
            functools.partial(scored.rows_of, "plain"), "1"
        )
        options = tuple(
            serving.Option(kind, source, same)
            for kind, source in (("files", files), ("hub", generated))
        )
        for name, source in (
            ("far_ask", files),
            ("away_ask", serving.AnyOf("d", options[:1])),
            ("here_ask", serving.AnyOf("d", options)),
        ):
            added = dataclasses.replace(toy_task, name=name, source=source)
            tasks.registry.add(added)
        yield ("far_ask", "away_ask", "plain_ask")


def runs(folder, names, data):
    """Runs that lack a base, a vocabulary, a library and experts besides."""
    shared = {"model_dir": str(folder), "data": data, "tasks": names}
    base = {"initial_checkpoint_path": "{MODEL_DIR}/base"}
    yield cache_tasks.CacheTasks(**shared)
    yield library.Retrieve(**shared, **base, split="train")
    yield evaluate.Evaluate(
        **shared,
        **base,
        strategies=("base",),
        splits=("train",),
        experts=("{MODEL_DIR}/experts/*",),
    )
    text = {"model_dir": str(folder), "tasks": names, "data_dir": data.data_dir}
    yield list_tasks.TrainVocabulary(**text, vocab_size=100)
    yield train.Train(
        **shared,
        **base,
        kind="dataset",
        optimizer=optimizers.AdamW(),
        train_steps=1,
        batch_size=8,
    )


@pytest.mark.parametrize("place", ["", "absent"])
def test_it_is_said_before_all_else_and_in_dry_runs(far, tmp_path, place):
    nowhere = str(tmp_path / "absent") if place else ""
    data = dataclasses.replace(
        scored.make_data(), data_dir=nowhere, vocabulary_path="{MODEL_DIR}/none.model"
    )
    message = TOLD.format(nowhere)
    for run in runs(tmp_path, far, data):
        for start in (run.plan, run.run):
            with pytest.raises(errors.ConfigError, match=message):
                start()
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_tasks_that_all_lie_elsewhere_says_so(far, tmp_path):
    options = {"model_dir": str(tmp_path), "data_dir": ""}
    with pytest.raises(errors.ConfigError, match="no data folder ''"):
        list_tasks.ListTasks(**options, tasks=far[:2]).run()
    with pytest.raises(errors.ConfigError, match="no data folder"):
        list_tasks.ListTasks(**options, tasks=far[:2]).plan()
    plan = list_tasks.ListTasks(**options, tasks=far).plan()
    assert plan["lack a data folder"] == "far_ask, away_ask"
    list_tasks.ListTasks(**options, tasks=far).run()  # what can be read is shown


def test_tasks_that_need_no_folder_are_not_asked_for_one(far, tmp_path):
    data_options = tasks.DataOptions("", "")
    data_folder.check(data_options, ["plain_ask", "here_ask"], ("train", "test"))
    data_folder.check(data_options, ["far_ask"], ("no such split",))
    data_folder.check(
        dataclasses.replace(data_options, data_dir=str(tmp_path)), far, ()
    )
    only_files = dataclasses.replace(data_options, sources=("files",))
    with pytest.raises(errors.ConfigError, match="1 of 1 tasks"):
        data_folder.check(only_files, ["here_ask"], ("train",))
