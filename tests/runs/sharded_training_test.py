"""Shards of a training, also at once, also over a bucket: the bits of one run."""

import os
import shutil
import subprocess
import sys

import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import bucket, experts
from elm_jax.cli import gin_flags
from elm_jax.runs import fetch, train
from tests.runs.shapes import SHAPE

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
    "options.Batching.num_shapes = 1",
    "options.Saving.every_steps = 2",
)


def build(folder, name, *bindings):
    return gin_flags.build_run(
        (train.Train, fetch.FetchExperts),
        gin_files=[f"gin/pocket/{name}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )


def run(folder, name, *bindings):
    built, bound, operative = build(folder, name, *bindings)
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
    folders = sorted(folder.glob("prompt_experts/[!.]*"))
    return {p.name: trees.fingerprint(experts.load_expert(p)[0]) for p in folders}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder, "base", "TRAIN_STEPS = 2", "BATCH_SIZE = 8", *SHAPE)
    run(folder, "prompt_experts", *BINDINGS)
    return folder


def test_shards_also_two_processes_on_one_give_the_bits_of_one_run(whole, tmp_path):
    parts = tmp_path / "parts"
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


def test_machines_that_share_a_bucket_alone_meet_there(whole, tmp_path, capfd):
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    url = f"PUBLISH_URL = '{place.url}'"
    bindings = (*BINDINGS, url, f"INITIAL_CHECKPOINT_PATH = '{whole / 'base'}'")
    first, second, third = (tmp_path / f"machine_{n}" for n in range(3))
    run(first, "prompt_experts", *bindings, "SHARD = '0/2'")  # side by side
    assert sorted(place.experts()) == sorted(fingerprints(first))
    # Killed between landing and publishing, and in the middle of an upload.
    (tmp_path / "bucket" / EXPERTS[2]).rename(tmp_path / "gone")
    next((tmp_path / "bucket" / EXPERTS[0]).glob("*/manifest.json")).unlink()
    assert not place.experts()
    capfd.readouterr()
    run(first, "prompt_experts", *bindings, "SHARD = '0/2'")
    assert "finished already: 2 of 2" in capfd.readouterr().out
    assert sorted(place.experts()) == sorted(fingerprints(first))
    run(second, "prompt_experts", *bindings, "SHARD = '1/2'")
    assert sorted(fingerprints(second)) == [EXPERTS[1]]
    # A third machine has nothing left to do, and can get them all.
    planned = build(third, "prompt_experts", *bindings)[0].plan()
    assert planned["finished already"] == 3
    assert planned["published to"] == f"{place.url}, 3 there already"
    run(third, "prompt_experts", *bindings)
    assert not (third / "prompt_experts").exists()
    run(third, "fetch", url)
    assert fingerprints(third) == fingerprints(whole)


def test_a_bucket_out_of_reach_is_told_before_anything_else(whole, tmp_path):
    bindings = (*BINDINGS, "PUBLISH_URL = 'file:///proc/no/such'")
    base = f"INITIAL_CHECKPOINT_PATH = '{whole / 'base'}'"
    with pytest.raises(errors.CheckpointError, match="(?s)Found: file.*To do: Correct"):
        run(tmp_path, "prompt_experts", *bindings, base)
    assert [p.name for p in tmp_path.iterdir()] == ["config"]  # no tokens, no experts


def test_an_upload_that_fails_leaves_the_expert_and_fails_the_run(whole, tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / EXPERTS[0]).write_text("a file where its folder has to be")
    shutil.copytree(whole / "prompt_experts", tmp_path / "prompt_experts")
    bindings = (*BINDINGS, f"PUBLISH_URL = '{tmp_path / 'bucket'}'")
    with pytest.raises(errors.TrainingError, match=f"1 of 3 .*(?s:.*){EXPERTS[0]}"):
        run(tmp_path, "prompt_experts", *bindings)
    published = bucket.Bucket(f"{tmp_path / 'bucket'}").experts()
    assert sorted(published) == sorted(EXPERTS[1:])
