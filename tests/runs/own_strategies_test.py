"""Strategies and merge methods of other people, from gin files, and their rows."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.cli import gin_flags
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import result_store
from elm_jax.partitioning import processes
from elm_jax.runs import (
    candidates,
    evaluate,
    library,
    loaded,
    queries,
    report,
)
from tests.runs import scored, toy

TASKS = toy.TASKS
OF_OTHERS = '''
"""A strategy and a merge method of somebody else's."""

import dataclasses
from typing import ClassVar

from elm_jax import fields, trees
from elm_jax.merging.method import Merged, MergeMethod
from elm_jax.runs.strategy import Choice, LibraryStrategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class First(MergeMethod):
    """The first expert, times a number.

    Attributes:
      factor: The number.
    """

    name: ClassVar[str] = "first"
    reference: ClassVar[str] = "arXiv:0000.00000"
    factor: fields.Finite = 1.0

    def _merge(self, experts, base, beside):
        flat = trees.flatten(experts[0])
        scaled = {n: (a * self.factor).astype(a.dtype) for n, a in flat.items()}
        return Merged(trees.unflatten(scaled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongestRow(LibraryStrategy):
    """The expert whose place by name is the length of the longest query.

    Attributes:
      offset: Added to the length.
    """

    kind: ClassVar[str] = "longest_row"
    note: ClassVar[str] = "by the longest unlabelled row"
    offset: fields.CountOrNone = 0

    def pick(self, question):
        longest = max(len(question.dataset[i].inputs_text) for i in question.rows)
        names = sorted(question.experts)
        return Choice((names[(longest + self.offset) % len(names)],))
'''
GIN = """
from __gin__ import dynamic_registration

from elm_jax.runs import embedders
from elm_jax.runs import evaluate
from elm_jax.runs import queries
from elm_jax.runs import strategies
from elm_jax.runs import task_data
import of_others

MODEL_DIR = %gin.REQUIRED

task_data.TaskData:
  vocabulary_path = "VOCABULARY"
  feature_lengths = {"inputs": 24, "targets": 8}

embedders.EmbedderSpec:
  kind = "encoder"
  max_length = 24

queries.Queries:
  embedder = @embedders.EmbedderSpec()
  num_queries = 2

of_others.First.factor = 0.5
merged/strategies.MergeTopK:
  num_experts = 2
  method = @of_others.First()

evaluate.Evaluate:
  model_dir = %MODEL_DIR
  data = @task_data.TaskData()
  initial_checkpoint_path = "{MODEL_DIR}/base"
  tasks = ("plain_ask", "signs_ask")
  experts = ("{MODEL_DIR}/experts/plain", "{MODEL_DIR}/experts/twice")
  strategies = (
      "base",
      @strategies.Retrieved(),
      @merged/strategies.MergeTopK(),
      @of_others.LongestRow(),
  )
  retrieval = @queries.Queries()
  splits = ("validation", "test")
  batch_size = 8
"""


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def own_folder(library_folder, tmp_path_factory):
    """The work folder, to be added to."""
    return shutil.copytree(library_folder, tmp_path_factory.mktemp("own") / "run")


@pytest.fixture(scope="module")
def others(own_folder):
    """The rows of an evaluation by strategies of others, from gin alone."""
    folder = own_folder
    (folder / "of_others.py").write_text(OF_OTHERS, "utf-8")
    text = GIN.replace("VOCABULARY", str(scored.MODEL))
    (folder / "others.gin").write_text(text, "utf-8")
    with scored.registered():
        run, bound, operative = gin_flags.build_run(
            (evaluate.Evaluate,),
            gin_files=[str(folder / "others.gin")],
            bindings=[f"MODEL_DIR = '{folder}'"],
        )
        run.plan()
        run.start(config=bound, operative_config=operative)
    return run


def rows_of(run):
    rows = result_store.ResultStore(run.path(run.results_path)).rows()
    return [row for row in rows if row.metric == "accuracy"]


def test_a_strategy_and_a_merge_method_of_others_are_scored_from_gin_alone(others):
    rows = rows_of(others)
    labels = {row.expert for row in rows}
    merged = "merged_top2_first"
    assert labels >= {"base", "retrieved", merged, "longest_row", "plain", "twice"}
    for row in rows:
        if row.expert == "longest_row":
            assert (row.kind, row.strategy, row.settings) == (
                *("strategy", "longest_row"),
                "",
            )
            ((name, mark),) = row.experts.items()
            assert row.expert_fingerprint == mark
            (same,) = {
                candidate.per_example_sha256
                for candidate in rows
                if (candidate.expert, candidate.task, candidate.split)
                == (name, row.task, row.split)
            }
            assert row.per_example_sha256 == same
        if row.expert == merged:
            assert row.strategy == "merged_top_k"
            assert row.settings
            assert row.strategy_note.startswith(
                "first merge of at most two experts, those with most votes"
            )


def test_the_merge_of_others_has_the_parameters_that_it_makes(others, own_folder):
    method = sys.modules["of_others"].First(factor=0.5)
    folders = tuple(own_folder / "experts" / name for name in ("twice", "plain"))
    # No result may depend on their order: they are given by the fingerprints of their
    # parameters.
    infos = {path: manifest.read_manifest(path) for path in folders}
    first = min(folders, key=lambda path: infos[path].params_fingerprint)
    base = loaded.Base.load(own_folder / "base")
    params, adapter = candidates.Candidate("x", folders, method=method).load(base)
    assert adapter is None
    expert = trees.flatten(experts.load_expert(first)[0])
    whole = trees.flatten(params)
    for name, leaf in expert.items():
        np.testing.assert_array_equal(whole[name], leaf * np.float32(0.5))


@pytest.mark.slow
def test_libraries_of_two_seeds_are_alike_and_those_of_mixed_seeds_are_none(
    own_folder, tmp_path
):
    (tmp_path / "base").symlink_to(own_folder / "base")
    folders = {"all 1": (1, 1), "all 2": (2, 2), "mixed": (1, 2)}
    by_place = {}
    for place, seeds in folders.items():
        home = tmp_path / place
        for name, seed in zip(("plain", "twice"), seeds, strict=True):
            params, info = experts.load_expert(own_folder / "experts" / name)
            of_seed = dataclasses.replace(info, seed=seed)
            experts.save_expert(home / "experts" / name, params, of_seed)
        (home / "base").symlink_to(own_folder / "base")
        toy.build(home).run()
        retrieval = toy.ask(home)
        (answer,) = retrieval.ask(retrieval, TASKS[:1], retrieval.data)
        by_place[place] = (answer.library, answer.training_seed)
    assert by_place["all 1"][0] == by_place["all 2"][0] != ""
    assert [by_place[place][1] for place in folders] == [1, 2, None]
    assert by_place["mixed"] == ("", None)
    # Rows tell it, whichever expert was chosen.
    run = toy.score(tmp_path / "all 2", experts=(), strategies=("base", "merged_top3"))
    run.run()
    by_expert = {row.expert: (row.library, row.training_seed) for row in rows_of(run)}
    assert by_expert == {"base": ("", None), "merged_top3": (by_place["all 2"][0], 2)}


def test_a_report_shows_strategies_of_others_as_they_are(others, own_folder):
    shown = report.Report(model_dir=str(own_folder), title="Others", unseen_tasks=TASKS)
    shown.run()
    text = (own_folder / "report" / "tables.md").read_text("utf-8")
    headline = text.partition("**Unseen tasks")[2].partition("\n**")[0]
    cells = [line.split("|") for line in headline.splitlines() if "|" in line]
    names = [cell[1].strip() for cell in cells[2:]]
    assert names[:2] == ["chance", "base"]
    assert {*names[2:5]} == {"retrieved", "merged_top2_first", "longest_row"}
    assert names[5] == "best_single"  # views come after what was scored
    assert "how well longest_row chooses from it" in text
    assert "how well retrieved chooses from it" in text
    assert "how well merged_top2_first" not in text
    page = (own_folder / "report" / "index.html").read_text("utf-8")
    assert "by the longest unlabelled row" in page


def test_what_is_scored_is_not_scored_again(others, capsys):
    before = others.path(others.results_path).read_bytes()
    others.run()
    assert "to score: 0" in capsys.readouterr().out
    assert others.path(others.results_path).read_bytes() == before


def test_rows_of_earlier_versions_tell_no_strategy_and_are_not_scored_again(
    others, capsys, tmp_path
):
    """Rows as release 0.1 wrote them, of the strategies that it had."""
    run = dataclasses.replace(
        others,
        strategies=("base", "retrieved"),
        results_path=str(tmp_path / "results.jsonl"),
    )
    new = ("strategy", "strategy_note", "experts", "settings")
    lines = others.path(others.results_path).read_text("utf-8").splitlines()
    old = [json.loads(line) for line in lines]
    old = [row for row in old if row["strategy"] in ("base", "expert", "retrieved")]
    for row in old:
        for name in new:
            del row[name]
    text = "".join(f"{json.dumps(row)}\n" for row in old)
    (tmp_path / "results.jsonl").write_text(text, "utf-8")
    run.run()
    assert "to score: 0" in capsys.readouterr().out
    assert (tmp_path / "results.jsonl").read_text("utf-8") == text
    rows = rows_of(run)
    assert {row.role for row in rows} == {"base", "expert", "strategy"}
    assert all(row.is_choice == (row.expert == "retrieved") for row in rows)


def test_votes_are_written_by_the_main_process_only(others, monkeypatch):
    votes = others.path("{MODEL_DIR}/votes.jsonl")
    before = votes.read_bytes()
    assert [json.loads(line)["task"] for line in before.splitlines()] == [*TASKS]
    votes.unlink()
    monkeypatch.setattr(processes, "is_main", lambda: False)
    others.retrieval.ask(others, TASKS, others.data, base_path="{MODEL_DIR}/base")
    assert not votes.exists()
    monkeypatch.undo()
    others.retrieval.ask(others, TASKS, others.data, base_path="{MODEL_DIR}/base")
    assert votes.read_bytes() == before


def test_a_retrieval_as_it_was_asks_what_a_part_asks(others, own_folder):
    """`@library.Retrieve()` had tasks and data of its own."""
    former = toy.ask(own_folder)
    names = task_registry.registry.expand(TASKS)
    questions = former.ask(former, names, former.data)
    again = others.retrieval.ask(
        others, names, others.data, base_path="{MODEL_DIR}/base"
    )
    assert [question.result.votes for question in questions] == [
        question.result.votes for question in again
    ]
    assert [question.rows for question in questions] == [
        question.rows for question in again
    ]
    assert isinstance(former, library.Retrieve)
    assert isinstance(former, queries.Queries)


@pytest.mark.slow
def test_controls_of_a_library_are_scored_by_their_names(others, tmp_path):
    run = dataclasses.replace(
        others,
        strategies=("merged_all", "random_weights"),
        experts=(),
        splits=("test",),
        results_path=str(tmp_path / "results.jsonl"),
    )
    run.run()
    rows = rows_of(run)
    labels = sorted(row.expert for row in rows)
    assert labels == ["merged_all"] * 2 + ["random_weights"] * 2
    text = others.path("{MODEL_DIR}/votes.jsonl").read_text("utf-8")
    lines = map(json.loads, text.splitlines())
    votes = {line["task"]: line["votes"][0][0] for line in lines}
    for row in rows:
        assert row.kind == "strategy"
        assert not row.is_choice
        all_of_them = {"plain", "twice"}
        first = {votes[row.task]}
        assert {*row.experts} == (all_of_them if row.expert == "merged_all" else first)
        assert row.expert_fingerprint not in row.experts.values()
    assert len({r.expert_fingerprint for r in rows if r.expert == "merged_all"}) == 1
