"""Ways to ask a library are compared by what the retrieved experts score."""

import dataclasses
import json
import re

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.evaluation import result_store, results
from elm_jax.runs import embedders, retrieval_comparison
from tests.runs import scored, toy

NAMES = ("plain", "twice")
OTHER = dataclasses.replace(toy.ENCODER, max_length=12)


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, two experts, their library and made-up scores on rows that do not ask."""
    folder = tmp_path_factory.mktemp("compared")
    with scored.registered():
        toy.make_library(folder)
        for question in questions(folder):
            record(folder, question)
    return folder


def questions(folder):
    run = toy.ask(folder)
    return run.ask(run, toy.TASKS, run.data, base_path=run.initial_checkpoint_path)


def record(folder, question):
    store = result_store.ResultStore(folder / "results.jsonl")
    ids = [i for i in range(len(question.dataset)) if i not in question.rows]
    for place, name in enumerate(NAMES):
        # On each task another expert is the better one.
        is_good = place == toy.TASKS.index(question.task)
        values = np.where(np.arange(len(ids)) < (1, len(ids) - 1)[is_good], 100.0, 0.0)
        info = manifest.read_manifest(folder / "experts" / name)
        cell = results.Cell(
            expert=name,
            base_fingerprint=info.base_fingerprint,
            expert_fingerprint=info.fingerprint,
            task=question.task,
            dataset=question.task,
            prompt="ask",
            split="validation",
            protocol="default",
            seed=42,
            checkpoint_step=1,
        )
        store.record(
            cell,
            run_id="r",
            values={"accuracy": float(values.mean())},
            num_examples=len(ids),
            per_example={"example_ids": np.array(ids), "accuracy": values},
            facts=results.Facts(kind="dataset", source=f"experts/{name}"),
        )


def compare(folder, **changes):
    fields = {
        "model_dir": str(folder),
        "tasks": toy.TASKS,
        "data": toy.DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "embedders": (toy.ENCODER,),
        "num_queries": 2,
    }
    return retrieval_comparison.CompareRetrieval(**(fields | changes))


@pytest.mark.slow
def test_the_librarys_own_way_scores_what_its_experts_score(folder):
    run = compare(folder)
    assert run.plan()["ways to ask"] == 10 * 4
    run.run()
    text = (folder / "report" / "retrieval.md").read_text()
    rows = result_store.ResultStore(folder / "results.jsonl").rows()
    scores = {(row.expert, row.task): row.value for row in rows}
    votes = {question.task: question.result.expert for question in questions(folder)}

    def number(label):
        match = re.search(rf"^\| {label} \| ([\d.]+)", text, re.MULTILINE)
        assert match, label
        return float(match[1])

    def mean(values):
        return pytest.approx(sum(values) / len(values), abs=0.06)

    score = number("encoder, choice_instance")
    assert (
        score
        == number("the library's own way")
        == mean([scores[name, task] for task, name in votes.items()])
    )
    best = [scores[name, task] for name, task in zip(NAMES, toy.TASKS, strict=True)]
    assert number("oracle of these experts") == mean(best)
    assert number("random expert") == mean([*scores.values()])
    parts = text.split("library's own (")
    every, best = (part.count("\n| encoder, ") for part in parts)
    assert every == 10
    # Two experts for two tasks: four ways that differ, at most.
    assert 1 <= best <= 4
    assert "Differences hold together for all 39 ways" in text


@pytest.mark.slow
def test_two_embedders_of_a_kind_are_two_ways_to_ask(folder):
    path = "{MODEL_DIR}/both.md"
    formats = ("choice_instance", "label")
    both = (toy.ENCODER, OTHER)
    compare(folder, embedders=both, text_formats=formats, output_path=path).run()
    text = (folder / "both.md").read_text()
    for length in (toy.ENCODER.max_length, OTHER.max_length):
        assert f"| encoder of {length} tokens, choice_instance |" in text
    assert "Differences hold together for all 15 ways" in text


def test_without_the_librarys_own_way_there_is_nothing_to_compare_with(folder):
    for changes in ({"text_formats": ("label",)}, {"embedders": (OTHER,)}):
        with pytest.raises(errors.LibraryError, match="its own embedder and text"):
            compare(folder, **changes).run()


def test_rows_that_ask_and_were_scored_are_refused(folder):
    with pytest.raises(errors.DataError, match="that ask and are scored"):
        compare(folder, num_queries=3).run()


def test_an_expert_without_scores_is_refused_in_the_plan(folder, tmp_path):
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    remaining_lines = [line for line in lines if json.loads(line)["expert"] != "twice"]
    (tmp_path / "results.jsonl").write_text("".join(remaining_lines))
    (tmp_path / "per_example").symlink_to(folder / "per_example")
    path = f"{tmp_path}/results.jsonl"
    with pytest.raises(errors.DataError, match="no rows of experts of .*: twice"):
        compare(folder, results_path=path).plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_formats": ("lable",)}, "text format 'lable'"),
        ({"text_formats": ()}, "one or more different ones"),
        ({"num_nearest": (1, 1)}, "one or more different ones"),
        ({"num_nearest": (5,)}, "1, the paper's, and others"),
        ({"embedders": (embedders.EmbedderSpec(),) * 2}, "one or more different ones"),
    ],
)
def test_ways_that_cannot_be_are_refused(changes, message):
    with pytest.raises(errors.ConfigError, match=message):
        compare("anywhere", **changes)
