"""Each binary, killed at random moments and started again, leaves the same files.

ELM_NUM_KILLS is how many kills there are over all binaries, 10 if unset. Which stage
is killed when follows from a seed; the moment is a share of the time that a run takes,
or a little after one of the changes that it makes to its files. ELM_KILLS_SECS ends
the kills after so many seconds, ELM_KILLS_SEED gives others; figures are printed as
they grow (`-s`).
"""

import collections
import os
import random
import shutil
import signal
import time

import pytest

from tests.runs import binaries

pytestmark = pytest.mark.slow

NUM_KILLS = int(os.environ.get("ELM_NUM_KILLS", "10"))
MOST_SECS = float(os.environ.get("ELM_KILLS_SECS", "inf"))
SEED = int(os.environ.get("ELM_KILLS_SEED", "0"))
MOST_IN_A_ROW = 3
POLL_SECS = 0.003


class Reference:
    """What a stage begins with, what it leaves, and how long it takes."""

    def __init__(self, before, after, secs, num_changes):
        self.before, self.after = before, after
        self.secs, self.num_changes = secs, num_changes


def watch(process, folder, *, most_secs=600.0, most_changes=10**9):
    """Waits for an end, a time or a number of changes; returns the changes seen."""
    until, num_seen, last = time.monotonic() + most_secs, 0, look(folder)
    while process.is_alive() and time.monotonic() < until and num_seen < most_changes:
        process.join(min(POLL_SECS, max(0.0, until - time.monotonic())))
        now = look(folder)
        num_seen, last = num_seen + (now != last), now
    return num_seen


def look(folder):
    """Returns names, sizes and times of all files of a folder that changes."""
    files = []
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    stat = entry.stat(follow_symlinks=False)
                    files.append((entry.path, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            continue
    return sorted(files)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def started(folders):
    return binaries.Binaries(folders)


@pytest.fixture(scope="module")
def model_dir(folders):
    """One place for all runs: files name it."""
    return folders / "model"


@pytest.fixture(scope="module")
def references(folders, started, model_dir):
    """Undisturbed runs of all stages, one after another."""
    by_stage = {}
    model_dir.mkdir()
    for number, stage in enumerate(binaries.STAGES):
        before = folders / f"before {number}"
        shutil.copytree(model_dir, before)
        begun = time.monotonic()
        process = started.start(stage, model_dir)
        num_changes = watch(process, model_dir)
        process.join()
        assert process.exitcode == 0, started.log.read_text()[-5000:]
        after = binaries.content(model_dir)
        # Now that programs are compiled, the next run takes less.
        secs = 0.5 * (time.monotonic() - begun)
        by_stage[stage.name] = Reference(before, after, secs, num_changes)
    return by_stage


def kill(process, folder, reference, rng):
    """Kills a run at a random moment; returns whether it was still under way."""
    if rng.random() < 0.5:
        watch(process, folder, most_secs=rng.uniform(0.0, reference.secs))
    else:
        most = max(1, int(0.9 * reference.num_changes))
        watch(process, folder, most_changes=rng.randint(1, most))
        process.join(rng.uniform(0.0, 0.02))
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def finish(started, stage, folder, reference):
    """Runs a stage to its end, and notes how long that takes."""
    begun = time.monotonic()
    process = started.start(stage, folder)
    process.join(600)
    assert process.exitcode == 0, started.log.read_text()[-5000:]
    reference.secs = max(0.05, time.monotonic() - begun)
    binaries.wait_for_group(process.pid)


def test_a_binary_that_is_killed_at_any_moment_leaves_the_files_of_one_that_is_not(
    folders, started, model_dir, references
):
    rng, until = random.Random(SEED), time.monotonic() + MOST_SECS
    num_kills, num_late = collections.Counter(), collections.Counter()
    different, stages = [], rng.sample(binaries.STAGES, len(binaries.STAGES))
    while (left := NUM_KILLS - num_kills.total()) > 0 and time.monotonic() < until:
        assert num_late.total() <= NUM_KILLS, num_late
        stage = min(stages, key=lambda stage: num_kills[stage.name])
        reference = references[stage.name]
        shutil.rmtree(model_dir)
        shutil.copytree(reference.before, model_dir)
        groups = []
        # A later kill hits what was begun after an earlier one.
        for _ in range(min(left, rng.randint(1, MOST_IN_A_ROW) if left > 20 else 1)):
            process = started.start(stage, model_dir)
            was_killed = kill(process, model_dir, reference, rng)
            groups.append(process.pid)
            (num_kills if was_killed else num_late)[stage.name] += 1
        finish(started, stage, model_dir, reference)
        for group in groups:
            binaries.wait_for_group(group)
        differences = binaries.differences(binaries.content(model_dir), reference.after)
        if differences:
            where = folders / f"different {len(different)}"
            shutil.copytree(model_dir, where)
            different.append("\n  ".join([f"{stage.name} ({where}):", *differences]))
        print(
            f"kills: {num_kills.total()}, {dict(num_kills)}; had ended before:"
            f" {dict(num_late)}; different: {len(different)}",
            flush=True,
        )
    assert not different, "\n".join(different)
    assert len(stages) > NUM_KILLS or len(num_kills) == len(stages)
