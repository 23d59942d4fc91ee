"""A training of several experts, killed, ends as one that was not.

Tensors have its bits, manifests its bytes, and lines of metrics its numbers but times.

ELM_NUM_KILLS is how many times it is killed, 10 if unset: half of them as a fleet.
Those that are killed, and what they are compared with, are forks of a process that has
imported all; those that are stopped at start-up begin as users' do.
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
from tests.runs import binaries, shapes

pytestmark = pytest.mark.slow

EXPERTS = (
    "pocket_kinds_which_is",
    "pocket_notes_tell",
    "pocket_reviews_good_or_bad",
)
NUM_KILLS = int(os.environ.get("ELM_NUM_KILLS", "10"))
LOG_STEPS, MOST_REPORTS = 3, 3
# Kills must not run out of steps. Three in four leave 1 to `MOST_REPORTS` behind: 1.5 a
# kill, of three experts, two at a time, which have 2 a kill.
NUM_STEPS = 4 + LOG_STEPS * NUM_KILLS // 2
START_UP_SECS = 3.0  # a kill before the first step comes within them
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


def flags_of(way, *more):
    return (f"--gin.MIXTURE_OR_TASK_NAME={EXPERTS}", *COMMON, WAYS[way], *more)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    return binaries.Binaries(tmp_path_factory.mktemp("binaries"), num_devices=1)


@pytest.fixture(scope="module")
def start(started):
    """Starts a training of the experts in a folder."""

    def start(folder, way, *more):
        return started.start_with(
            "elm_train", "gin/pocket/prompt_experts.gin", folder, *flags_of(way, *more)
        )

    return start


def finish(process, started):
    process.join()
    assert process.exitcode == 0, started.log.read_text()[-5000:]


@pytest.fixture(scope="module")
def base(started, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    shape = [f"--gin.{binding.replace(' ', '')}" for binding in shapes.SHAPE]
    few = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8", *shape)
    finish(
        started.start_with("elm_train", "gin/pocket/base.gin", folder, *few), started
    )
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


def kill(folder, start, rng, *, num_reports=None):
    """Starts a run and kills it at a random moment of its life.

    One time in four that is before its first step, else after a few of its next steps
    and a little more: within a step, or within the save of it.

    Args:
      folder: Of the run.
      start: Starts it.
      rng: Chance.
      num_reports: After how many steps; drawn if None.

    Returns:
      Exit status, and whether a step had been reported.
    """
    if num_reports is None:
        num_reports = rng.choice([0, *rng.choices(range(1, MOST_REPORTS + 1), k=3)])
    num_seen, last = 0, reports(folder)
    process = start()
    if num_reports == 0:
        process.join(rng.uniform(0.0, START_UP_SECS))
    while process.is_alive() and num_seen < num_reports:
        time.sleep(0.002)
        now = reports(folder)
        num_seen, last = num_seen + (now != last), now
    time.sleep(rng.uniform(0.0, 0.1))
    process.kill()
    process.join()
    return process.exitcode, num_seen > 0


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
def expected(base, started, start, way, tmp_path_factory):
    """The outcome of a run that nothing stops."""
    whole = start_with(base, tmp_path_factory.mktemp("whole"))
    finish(start(whole, way), started)
    return outcome(whole)


def test_sigkill_at_random_moments_changes_no_bit_of_any_expert(
    base, started, start, expected, way, tmp_path
):
    folder, rng = start_with(base, tmp_path), random.Random(0)
    num_kills = NUM_KILLS // len(WAYS)
    killed = [
        kill(folder, lambda: start(folder, way), rng, num_reports=0 if first else None)
        for first in (True, *[False] * (num_kills - 1))
    ]
    # The others came to their end before.
    assert sum(status == -signal.SIGKILL for status, _ in killed) >= 0.8 * num_kills
    assert sum(has_begun for _, has_begun in killed) >= 0.4 * num_kills
    finish(start(folder, way), started)
    assert outcome(folder) == expected


def num_steps_reported(folder, name):
    with contextlib.suppress(FileNotFoundError):
        return len(rows_of(folder, name)) * LOG_STEPS
    return 0


def test_a_stop_saves_the_step_that_was_under_way(
    base, started, start, expected, way, tmp_path
):
    folder = start_with(base, tmp_path)
    last = NUM_STEPS - 6
    seldom = "--gin.options.Saving.every_steps=1000"
    process = start(folder, way, seldom)
    while num_steps_reported(folder, EXPERTS[1]) < last:
        assert process.is_alive()
        time.sleep(0.002)
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGINT if way == "fleet" else signal.SIGTERM)
    process.join()
    assert process.exitcode == (130 if way == "fleet" else 143)
    assert time.monotonic() - begun < signals.GRACE_SECS
    (saved,) = (folder / "work" / "prompt_experts" / EXPERTS[1] / "state").iterdir()
    assert int(saved.name) >= last // LOG_STEPS * LOG_STEPS
    finish(start(folder, way), started)
    assert outcome(folder) == expected


@pytest.mark.parametrize("delay_secs", [0.5, 3.0])
def test_a_stop_at_start_up_has_the_same_status(base, tmp_path, delay_secs):
    """While modules load, the base is read, the step compiles."""
    folder = start_with(base, tmp_path)
    command = [sys.executable, "-m", "elm_jax.cli.elm_train"]
    command += ["--gin_file=gin/pocket/prompt_experts.gin"]
    command += [f"--gin.MODEL_DIR={folder}", *flags_of("fleet")]
    with subprocess.Popen(command) as process:
        while not list(folder.glob("config/*.operative.gin")):
            time.sleep(0.01)
        time.sleep(delay_secs)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert time.monotonic() - begun < signals.GRACE_SECS + 5
