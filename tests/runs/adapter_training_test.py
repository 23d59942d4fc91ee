"""Every kind of adapter is trained, kept, retrieved by, merged and judged."""

import json

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.runs import candidates, evaluate, library, loaded, merge, train
from tests.runs.shapes import SHAPE

RUNS = (train.Train, library.BuildLibrary, evaluate.Evaluate)
KINDS = ("lora", "ia3", "norm", "parallel")
FEW = ("TRAIN_STEPS = 3", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1")

pytestmark = pytest.mark.slow


def run(folder, gin_file, *bindings):
    built, bound, operative = gin_flags.build_run(
        RUNS,
        gin_files=[f"gin/pocket/{gin_file}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    built.start(config=bound, operative_config=operative)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pocket")
    run(path, "base", "TRAIN_STEPS = 4", "BATCH_SIZE = 8", *SHAPE)
    for kind in KINDS:
        tasks = "MIXTURE_OR_TASK_NAME = 'pocket_kinds'"
        run(path, f"{kind}_experts", tasks, *FEW)
    return path


def trained(folder, kind):
    return sorted((folder / f"{kind}_experts").iterdir())


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [
        ("lora", {"lora_a", "lora_b"}),
        ("ia3", {"ia3_scale"}),
        ("norm", {"scale"}),
        ("parallel", {"kernel", "bias", "scale"}),
    ],
)
def test_an_expert_holds_what_trained_and_it_moved(folder, kind, leaves):
    params, info = experts.load_expert(trained(folder, kind)[0])
    names = trees.flatten(params)
    assert {name.rpartition("/")[2] for name in names} == leaves
    assert info.steps == 3
    if kind in ("lora", "parallel"):
        moved = [n for n in names if n.endswith(("lora_b", "up/kernel"))]
        assert all(np.any(names[name]) for name in moved)
    else:
        assert all(np.any(leaf != 1) for leaf in names.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_tells_the_model_that_the_expert_needs(folder, kind):
    source = trained(folder, kind)[0]
    base = loaded.Base.load(folder / "base")
    candidate = candidates.Candidate("x", (source,))
    whole = candidate.load(base)[0]
    added, _ = trees.split(whole, "_adapter/")
    assert bool(added) == (kind != "norm")


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_is_merged_kept_and_judged(folder, kind):
    first, second, *_ = trained(folder, kind)
    merge.Merge(
        model_dir=str(folder),
        experts=(str(first), str(second)),
        expert_name=kind,
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    dataset = f"'{{MODEL_DIR}}/{kind}_experts/*'"
    keys = ("library.BuildLibrary.num_keys = 3", f"EXPERTS = {dataset}")
    where = f"library.BuildLibrary.library_dir = '{{MODEL_DIR}}/{kind}_library'"
    run(folder, "library", *keys, where)
    names = (folder / f"{kind}_library" / "catalogue.jsonl").read_text().splitlines()
    assert len(names) == len(trained(folder, kind))
    run(
        folder,
        "own_tasks",
        f"evaluate.Evaluate.tasks = '{first.name}'",
        f"evaluate.Evaluate.experts = ('{first}', '{{MODEL_DIR}}/merged/{kind}')",
        "evaluate.Evaluate.max_examples = 16",
        "evaluate.Evaluate.batch_size = 8",
        f"evaluate.Evaluate.results_path = '{{MODEL_DIR}}/{kind}.jsonl'",
    )
    lines = (folder / f"{kind}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["expert"] for row in rows} >= {first.name, kind}
