"""The main job on a tiny model: every binary's run, in the order of the quickstart."""

import json
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.evaluation import claims, result_store, row_lines, selection
from elm_jax.library import index
from elm_jax.runs import (
    convert,
    evaluate,
    library,
    loaded,
    merge,
    queries,
    report,
    scored_rows,
    tasks,
    train,
)
from tests.runs.shapes import SHAPE

RUNS = (train.Train, library.BuildLibrary, evaluate.Evaluate, merge.Merge)
RUNS += (report.Report, convert.ImportT5X, tasks.ListTasks)
TRAINED = "('pocket_kinds', 'pocket_reviews')"

pytestmark = pytest.mark.slow


def run(folder, gin_file, *bindings, parts=()):
    built, bound, operative = gin_flags.build_run(
        RUNS,
        gin_files=[f"gin/pocket/{gin_file}.gin", *parts],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    built.start(config=bound, operative_config=operative)


def train_all(folder):
    tasks_bound = f"MIXTURE_OR_TASK_NAME = {TRAINED}"
    run(folder, "base", "TRAIN_STEPS = 4", "BATCH_SIZE = 8", *SHAPE)
    few = ("TRAIN_STEPS = 3", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1")
    run(folder, "prompt_experts", tasks_bound, *few)
    run(folder, "dataset_experts", tasks_bound, *few)
    run(folder, "multitask", tasks_bound, *few)


MERGED = ("'{MODEL_DIR}/dataset_experts/pocket_kinds'",)
MERGED += ("'{MODEL_DIR}/dataset_experts/pocket_reviews'",)
SMALL = ("evaluate.Evaluate.max_examples = 24", "evaluate.Evaluate.batch_size = 8")
NUM_QUERIES = 8
ASKED = f"library.Retrieve.num_queries = {NUM_QUERIES}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pocket")
    train_all(path)
    keys = "library.BuildLibrary.num_keys = 5"
    run(path, "library", keys)
    run(path, "evaluate", *SMALL, ASKED)
    run(path, "own_tasks", f"evaluate.Evaluate.tasks = {TRAINED}", *SMALL)
    parts = f"({', '.join(MERGED)})"
    run(path, "merge", f"merge.Merge.experts = {parts}")
    tested = f"({', '.join(MERGED)}, '{{MODEL_DIR}}/merged/*')"
    run(path, "compose", f"evaluate.Evaluate.experts = {tested}", *SMALL)
    few = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1")
    run(path, "new_expert", *few)
    run(path, "grow", keys)
    run(path, "after", *SMALL, ASKED)
    names = "report.Report.merged_parts = ('pocket_kinds', 'pocket_reviews')"
    run(path, "report", f"report.Report.seen_tasks = {TRAINED}", names)
    return path


def test_every_expert_names_the_content_of_the_base(folder):
    params, info = experts.load_expert(folder / "base")
    assert trees.fingerprint(params) == info.base_fingerprint
    for name in ("prompt_experts", "dataset_experts"):
        for expert in (folder / name).iterdir():
            _, expert_info = experts.load_expert(expert)
            assert expert_info.base_fingerprint == info.base_fingerprint


def test_prompt_experts_hold_adapters_and_norms_only(folder):
    params, _ = experts.load_expert(folder / "prompt_experts" / "pocket_kinds_which_is")
    assert all("adapter/" in n or "norm/" in n for n in trees.flatten(params))


def test_retrieved_rows_equal_the_rows_of_the_expert_they_name(folder):
    rows = result_store.ResultStore(folder / "results.jsonl").rows()
    lines = (folder / "votes.jsonl").read_text().splitlines()
    winner = {v["task"]: v["votes"][0][0] for v in map(json.loads, lines)}
    pairs = 0
    for row in rows:
        if row.expert == "retrieved":
            same = [
                candidate.per_example_sha256
                for candidate in rows
                if (candidate.expert, candidate.task, candidate.split, candidate.metric)
                == (winner[row.task], row.task, row.split, row.metric)
            ]
            assert same == [row.per_example_sha256]
            pairs += 1
    assert pairs > 0


def test_shards_of_an_evaluation_write_its_rows(folder):
    where = "evaluate.Evaluate.results_path = '{MODEL_DIR}/shards/results.jsonl'"
    tasks_bound = f"evaluate.Evaluate.tasks = {TRAINED}"
    whole = {
        row.key(row.metric): row.value
        for row in result_store.ResultStore(folder / "results.jsonl").rows()
    }
    counts = []
    for shard in ("0/2", "1/2"):
        run(folder, "own_tasks", tasks_bound, *SMALL, where, f"SHARD = '{shard}'")
        rows = result_store.ResultStore(folder / "shards" / "results.jsonl").rows()
        counts.append(len({row.expert for row in rows}))
    assert {row.key(row.metric): row.value for row in rows}.items() <= whole.items()
    names = {path.name for path in (folder / "prompt_experts").iterdir()}
    assert {row.expert for row in rows} == names | {"base"}
    assert counts[0] == (len(names) + 2) // 2  # half of them and the base, rounded up


def test_the_rows_that_are_scored_are_chosen_among_those_that_do_not_ask(folder):
    """That `scored_rows.choose` leaves out those that ask is tested with it."""
    store = result_store.ResultStore(folder / "results.jsonl")
    rows = [r for r in store.rows() if r.split == "validation"]
    assert rows
    expected = scored_rows.choose(
        160,
        split="validation",
        retrieval=queries.Queries(num_queries=NUM_QUERIES),
        seed=42,
        most=24,
    )
    for row in rows:
        assert store.per_example(row)["example_ids"].tolist() == expected


def test_scores_on_other_rows_are_other_cells(folder, tmp_path):
    shutil.copytree(folder / "base", tmp_path / "base")
    shutil.copytree(folder / "prompt_experts", tmp_path / "prompt_experts")
    few = ("evaluate.Evaluate.batch_size = 8", "evaluate.Evaluate.tasks = ()")
    expert = ("evaluate.Evaluate.experts = ('{MODEL_DIR}/prompt_experts/*which_is',)",)
    for number in (8, 16):
        more = f"evaluate.Evaluate.max_examples = {number}"
        run(tmp_path, "own_tasks", *few, *expert, more)
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    assert {row.num_examples for row in rows} == {8, 16}


def test_scores_by_other_decoding_are_other_cells(folder, tmp_path, capsys):
    shutil.copytree(folder / "base", tmp_path / "base")
    bindings = (
        "evaluate.Evaluate.tasks = 'pocket_headlines_headline'",
        "evaluate.Evaluate.strategies = ('base',)",
        "evaluate.Evaluate.experts = ()",
        "evaluate.Evaluate.own_tasks = False",
        "evaluate.Evaluate.batch_size = 8",
        "evaluate.Evaluate.max_examples = 8",
        "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 6}",
    )
    for parts in ((), ("beam",), ("sample",), ("beam",)):
        paths = [f"gin/parts/decoding/{part}.gin" for part in parts]
        run(tmp_path, "own_tasks", *bindings, parts=paths)
    assert "to score: 0; scored already: 1" in capsys.readouterr().out
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    assert len({row.scoring for row in rows}) == 3


def test_a_grid_that_is_run_again_scores_nothing(folder, capsys):
    before = (folder / "results.jsonl").read_bytes()
    run(folder, "evaluate", *SMALL, ASKED)
    assert "to score: 0" in capsys.readouterr().out
    assert (folder / "results.jsonl").read_bytes() == before


def test_rows_have_the_same_order_after_a_kill(folder):
    """A strategy is scored with the parameters of the expert that it names."""
    where = "evaluate.Evaluate.results_path = '{MODEL_DIR}/cut/results.jsonl'"
    few = (*SMALL[1:], "evaluate.Evaluate.max_examples = 8", where, ASKED)
    few += ("evaluate.Evaluate.splits = ('test',)",)
    few += ("evaluate.Evaluate.strategies = ('base', 'retrieved')",)
    unseen = ("pocket_endings_what_next", "pocket_causes_why")
    few += (f"MIXTURE_OR_TASK_NAME = {unseen}",)
    run(folder, "evaluate", *few)
    path = folder / "cut" / "results.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"expert": "retrieved"' in line)
    assert first < len(lines) - 8  # others are scored after it
    path.write_bytes(b"".join(lines[:first]))
    run(folder, "evaluate", *few)
    assert path.read_bytes() == whole


def test_trained_experts_are_skipped(folder, capsys):
    train_all(folder)
    out = capsys.readouterr().out
    assert "finished already: 4 of 4" in out
    assert "expert 1/" not in out


def test_two_trainings_give_the_same_bytes(folder, tmp_path):
    shutil.copytree(folder / "base", tmp_path / "base")
    few = ("TRAIN_STEPS = 3", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1")
    run(tmp_path, "dataset_experts", f"MIXTURE_OR_TASK_NAME = {TRAINED}", *few)
    for name in ("pocket_kinds", "pocket_reviews"):
        before, _ = experts.load_expert(folder / "dataset_experts" / name)
        again, _ = experts.load_expert(tmp_path / "dataset_experts" / name)
        assert trees.fingerprint(before) == trees.fingerprint(again)


def test_the_merge_is_the_mean_of_its_parts(folder):
    merged, info = experts.load_expert(folder / "merged" / "topics_and_reviews")
    parts = [
        experts.load_expert(folder / "dataset_experts" / name)[0]
        for name in ("pocket_kinds", "pocket_reviews")
    ]
    assert info.kind == "merged"
    for name, leaf in trees.flatten(merged).items():
        values = [trees.flatten(part)[name] for part in parts]
        # Task arithmetic with scale 1/2 on two experts; one rounding to float32.
        np.testing.assert_allclose(leaf, np.mean(values, axis=0), rtol=1e-6, atol=1e-7)


def test_a_grown_library_keeps_the_old_keys(folder):
    old = index.open_index(folder / "library")
    new = index.open_index(folder / "library_grown")
    assert "pocket_opposites_opposite" in new.names
    assert new.keys[: len(old.keys)].tobytes() == old.keys.tobytes()


def test_old_scores_are_the_same_bytes_after_the_library_grew(folder):
    before = result_store.ResultStore(folder / "results.jsonl").rows()
    after = row_lines.read_rows(folder / "results_after.jsonl")
    scored = {(row.expert, row.task, row.split) for row in after}
    old = [row for row in before if (row.expert, row.task, row.split) in scored]
    singles = selection.single_experts(old)
    assert singles
    assert claims.scores_unchanged(singles, after).holds is True


def test_the_page_judges_the_three_claims_and_asks_for_nothing(folder):
    page = (folder / "report" / "index.html").read_text()
    assert "Old scores stay the same, byte for byte" in page
    assert "beat the multitask model" in page
    assert "beats either alone" in page
    assert "http" not in page.replace("http-equiv", "")


def test_an_expert_that_serves_as_a_base_is_another_base(folder):
    base = loaded.Base.load(folder / "base")
    multitask = loaded.Base.load(folder / "multitask")
    assert multitask.fingerprint == trees.fingerprint(multitask.params)
    assert multitask.fingerprint != base.fingerprint


def test_an_expert_of_another_base_is_refused(folder, tmp_path):
    shutil.copytree(folder / "prompt_experts", tmp_path / "prompt_experts")
    settings = (
        *SHAPE,
        "TRAIN_STEPS = 1",
        "BATCH_SIZE = 8",
        "train.Train.random_seed = 1",
    )
    run(tmp_path, "base", *settings)
    with pytest.raises(errors.FingerprintError, match="base"):
        run(tmp_path, "own_tasks")
