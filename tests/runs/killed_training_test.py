"""A training of several experts, killed, ends as one that was not.

Tensors have its bits, manifests its bytes, and lines of metrics its numbers but times.

ELM_NUM_KILLS is how many times it is killed, 10 if unset: half of them as a fleet.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.training import hooks, signals
from tests.runs import shapes

pytestmark = pytest.mark.slow

EXPERTS = (
    "pocket_kinds_which_is",
    "pocket_notes_tell",
    "pocket_reviews_good_or_bad",
)
NUM_KILLS = int(os.environ.get("ELM_NUM_KILLS", "10"))
# Kills must not run out of steps: each leaves up to `MOST_REPORTS` behind.
LOG_STEPS, MOST_REPORTS = 3, 3
NUM_STEPS = 4 + LOG_STEPS * NUM_KILLS
START_UP_SECS = 8.0  # a kill before the first step comes within them
COMMON = (
    f"--gin.TRAIN_STEPS={NUM_STEPS}",
    "--gin.BATCH_SIZE=8",
    "--gin.options.Batching.num_shapes=1",
    f"--gin.options.Metrics.every_steps={LOG_STEPS}",
    "--gin.options.Saving.every_steps=2",
)
# By default several experts train as a fleet, of which two fit at a time here.
WAYS = {"alone": "--gin.options.Fleet.size=0"}
WAYS["fleet"] = "--gin.options.Fleet.size=2"


def command(folder, gin_file, *more):
    module = (sys.executable, "-m", "elm_jax.cli.elm_train")
    return [*module, f"--gin_file={gin_file}", f"--gin.MODEL_DIR={folder}", *more]


def experts_command(folder, way, *more):
    more = (f"--gin.MIXTURE_OR_TASK_NAME={EXPERTS}", *COMMON, WAYS[way], *more)
    return command(folder, "gin/pocket/prompt_experts.gin", *more)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    shape = [f"--gin.{binding.replace(' ', '')}" for binding in shapes.SHAPE]
    few = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8")
    subprocess.run(command(folder, "gin/pocket/base.gin", *few, *shape), check=True)
    return folder


def start_with(base, folder):
    os.symlink(base / "base", folder / "base")
    os.symlink(base / "cache", folder / "cache")
    return folder


def reports(folder):
    """Returns what tells of progress: the sizes of all files of metrics."""
    # Of known depth: folders of states come and go below.
    paths = sorted((folder / "work").glob("*/*/metrics.jsonl"))
    return [path.stat().st_size for path in paths]


def kill(folder, command, rng):
    """Starts a run and kills it at a random moment of its life.

    One time in four that is before its first step, else after a few of its next steps
    and a little more: within a step, or within the save of it.

    Returns:
      Exit status, and whether a step had been reported.
    """
    num_reports = rng.choice([0, *rng.choices(range(1, MOST_REPORTS + 1), k=3)])
    num_seen, last = 0, reports(folder)
    with subprocess.Popen(command) as process:
        if num_reports == 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, START_UP_SECS))
        while process.poll() is None and num_seen < num_reports:
            time.sleep(0.002)
            now = reports(folder)
            num_seen, last = num_seen + (now != last), now
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
    return process.returncode, num_seen > 0


def outcome(folder):
    """Returns bits, manifest and metrics of every expert."""
    bits, manifests, metrics = {}, {}, {}
    for name in EXPERTS:
        expert_dir = folder / "prompt_experts" / name
        bits[name] = trees.fingerprint(experts.load_expert(expert_dir)[0])
        text = (expert_dir / "manifest.json").read_text()
        text = re.sub(r'"digest": "\w+"', "", text.replace(str(folder), "MODEL_DIR"))
        text = re.sub(r"\\\\\\n +", "", text)  # gin breaks lines by a path's length
        manifests[name] = re.sub(r"Saving.every_steps = \d+", "SELDOM", text)
        rows = rows_of(folder, name)
        metrics[name] = [without_times(row) for row in rows]
    return bits, manifests, metrics


def rows_of(folder, name):
    path = folder / "work" / "prompt_experts" / name / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(row):
    return {name: row[name] for name in row if name not in hooks.TIMES}


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def expected(base, way, tmp_path_factory):
    """The outcome of a run that nothing stops."""
    whole = start_with(base, tmp_path_factory.mktemp("whole"))
    subprocess.run(experts_command(whole, way), check=True)
    return outcome(whole)


def test_sigkill_at_random_moments_changes_no_bit_of_any_expert(
    base, expected, way, tmp_path
):
    folder, rng = start_with(base, tmp_path), random.Random(0)
    num_kills = NUM_KILLS // len(WAYS)
    killed = [kill(folder, experts_command(folder, way), rng) for _ in range(num_kills)]
    # The others came to their end before.
    assert sum(status == -signal.SIGKILL for status, _ in killed) >= 0.8 * num_kills
    assert sum(has_begun for _, has_begun in killed) >= 0.4 * num_kills
    subprocess.run(experts_command(folder, way), check=True)
    assert outcome(folder) == expected


def num_steps_reported(folder, name):
    with contextlib.suppress(FileNotFoundError):
        return len(rows_of(folder, name)) * LOG_STEPS
    return 0


def test_a_stop_saves_the_step_that_was_under_way(base, expected, way, tmp_path):
    folder = start_with(base, tmp_path)
    last = NUM_STEPS - 6
    seldom = "--gin.options.Saving.every_steps=1000"
    with subprocess.Popen(experts_command(folder, way, seldom)) as process:
        while num_steps_reported(folder, EXPERTS[1]) < last:
            assert process.poll() is None
            time.sleep(0.002)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT if way == "fleet" else signal.SIGTERM)
        assert process.wait() == (130 if way == "fleet" else 143)
        assert time.monotonic() - begun < signals.GRACE_SECS
    (saved,) = (folder / "work" / "prompt_experts" / EXPERTS[1] / "state").iterdir()
    assert int(saved.name) >= last // LOG_STEPS * LOG_STEPS
    subprocess.run(experts_command(folder, way), check=True)
    assert outcome(folder) == expected


@pytest.mark.parametrize("delay_secs", [0.5, 3.0])
def test_a_stop_at_start_up_has_the_same_status(base, tmp_path, delay_secs):
    """While modules load, the base is read, the step compiles."""
    folder = start_with(base, tmp_path)
    with subprocess.Popen(experts_command(folder, "fleet")) as process:
        while not list(folder.glob("config/*.operative.gin")):
            time.sleep(0.01)
        time.sleep(delay_secs)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert time.monotonic() - begun < signals.GRACE_SECS + 5
