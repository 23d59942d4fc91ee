"""Shards of a training, two processes on one of them at once: the bits of one run."""

import os
import subprocess
import sys

import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.runs import train
from tests.runs.end_to_end_test import SHAPE

pytestmark = pytest.mark.slow

EXPERTS = (
    "pocket_kinds_which_is",
    "pocket_notes_tell",
    "pocket_reviews_good_or_bad",
)
BINDINGS = (
    f"MIXTURE_OR_TASK_NAME = {EXPERTS}",
    "TRAIN_STEPS = 6",
    "BATCH_SIZE = 8",
    "train.Train.num_shapes = 1",
    "train.Train.save_every_steps = 2",
)


def run(folder, name, *bindings):
    built, bound, operative = gin_flags.build_run(
        (train.Train,),
        gin_files=[f"gin/pocket/{name}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    built.start(config=bound, operative_config=operative)


def start(folder, shard):
    flags = [f"--gin_bindings={text}" for text in BINDINGS]
    flags += ["--gin_file=gin/pocket/prompt_experts.gin", f"--gin.SHARD={shard}"]
    return subprocess.Popen(
        [sys.executable, "-m", "elm_jax.cli.elm_train", *flags]
        + [f"--gin.MODEL_DIR={folder}"],
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},  # as the tests' own
        text=True,
    )


def fingerprints(folder):
    found = sorted((folder / "prompt_experts").iterdir())
    return {p.name: trees.fingerprint(experts.load_expert(p)[0]) for p in found}


def test_shards_also_two_processes_on_one_give_the_bits_of_one_run(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, "base", "TRAIN_STEPS = 2", "BATCH_SIZE = 8", *SHAPE)
    run(whole, "prompt_experts", *BINDINGS)
    parts.mkdir()
    os.symlink(whole / "base", parts / "base")  # the cache is built by both at once
    pair = [start(parts, "0/2"), start(parts, "0/2")]
    texts = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(fingerprints(parts)) == [EXPERTS[0], EXPERTS[2]]
    # One of them came second, and left to the first what that had begun.
    assert any("; waiting" in text or "finished already" in text for text in texts)
    run(parts, "prompt_experts", *BINDINGS, "SHARD = '1/2'")
    assert fingerprints(parts) == fingerprints(whole)
    run(parts, "prompt_experts", *BINDINGS, "SHARD = '0/2'")  # nothing left to do
