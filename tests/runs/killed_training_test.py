"""A training of several experts, killed, ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys

import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts

pytestmark = pytest.mark.slow

EXPERTS = (
    "pocket_kinds_which_is",
    "pocket_notes_tell",
    "pocket_reviews_good_or_bad",
)
COMMON = (
    "--gin.TRAIN_STEPS=24",
    "--gin.BATCH_SIZE=8",
    "--gin.train.Train.log_every_steps=1",
    "--gin.train.Train.save_every_steps=2",
)


def command(folder, gin_file, *more):
    module = (sys.executable, "-m", "elm_jax.cli.elm_train")
    return [*module, f"--gin_file={gin_file}", f"--gin.MODEL_DIR={folder}", *more]


def experts_command(folder):
    tasks = f"--gin.MIXTURE_OR_TASK_NAME={EXPERTS}"
    return command(folder, "gin/pocket/prompt_experts.gin", tasks, *COMMON)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    shape = [f"--gin.config.T5Config.{name}=16" for name in ("emb_dim", "mlp_dim")]
    few = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8")
    subprocess.run(command(folder, "gin/pocket/base.gin", *few, *shape), check=True)
    return folder


def start_with(base, folder):
    os.symlink(base / "base", folder / "base")
    os.symlink(base / "cache", folder / "cache")
    return folder


def stop_at(folder, text, number):
    """Runs until a line of progress holds a text, then sends a signal."""
    with subprocess.Popen(
        experts_command(folder), stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if text in line:
                process.send_signal(number)
                break
        process.stderr.read()
    return process.returncode


def fingerprints(folder):
    return {
        name: trees.fingerprint(
            experts.load_expert(folder / "prompt_experts" / name)[0]
        )
        for name in EXPERTS
    }


def test_sigkill_and_sigterm_change_no_bit_of_any_expert(base, tmp_path_factory):
    whole = start_with(base, tmp_path_factory.mktemp("whole"))
    subprocess.run(experts_command(whole), check=True)
    killed = start_with(base, tmp_path_factory.mktemp("killed"))
    assert stop_at(killed, f"{EXPERTS[1]}: step 5/", signal.SIGKILL) == -9
    assert stop_at(killed, f"{EXPERTS[1]}: step 8/", signal.SIGTERM) == 143
    assert stop_at(killed, f"{EXPERTS[1]}: step 20/", signal.SIGKILL) == -9
    subprocess.run(experts_command(killed), check=True)
    assert fingerprints(killed) == fingerprints(whole)
