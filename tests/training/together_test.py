"""Two processes train one model; one dies, both go on, with the same bits."""

import shutil
import signal
import time

import numpy as np
import pytest

from tests import forks
from tests.partitioning import addresses
from tests.training import toy

# A dead process closes its connections, which others notice at once; a silent one is
# noticed after its heartbeat, 10 s here. The rest is for a busy machine.
BOUND_SECS = 60


def start(folder, *, count=2, num_devices=2):
    """Starts the processes of one training, four devices in all by default."""
    folder.mkdir(exist_ok=True)
    address = addresses.free_address()
    outputs = folder.parent / f"{folder.name} {address}"
    outputs.mkdir()
    return [
        forks.Program(
            "tests.training.together_run",
            (folder, address, count, index, num_devices),
            outputs / f"{index}",
        )
        for index in range(count)
    ]


def finish(runs):
    """Returns what each printed."""
    statuses = [run.wait(300) for run in runs]
    assert statuses == [0] * len(runs), "\n\n".join(run.text() for run in runs)
    return [run.lines() for run in runs]


def final(folder):
    with np.load(folder / "final.npz") as arrays:
        return dict(arrays)


def assert_close(folder, expected):
    # Sums over four devices are made in another order: a few units in the last place
    # (1.2e-7) per step, 24 steps.
    for name, leaf in final(expected).items():
        np.testing.assert_allclose(final(folder)[name], leaf, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A training by two processes, and one by a single process, never stopped."""
    folders = [tmp_path_factory.mktemp(name) for name in ("two", "one")]
    two, single = start(folders[0]), start(folders[1], count=1, num_devices=4)
    lines = finish(two)
    finish(single)
    assert lines[0][-1] == lines[1][-1]
    assert lines[0][-1].startswith("done 24 ")
    return *folders, lines[0][-1]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(untouched):
    assert_close(untouched[0], untouched[1])


@pytest.mark.slow
def test_when_one_dies_the_other_ends_and_both_go_on_with_the_same_bits(
    untouched, tmp_path
):
    folder = tmp_path / "killed"
    survivor, victim = start(folder)
    victim.wait_for("saved 6")
    victim.kill()
    began = time.monotonic()
    assert survivor.wait(BOUND_SECS) != 0
    assert time.monotonic() - began < BOUND_SECS
    assert victim.wait(BOUND_SECS) == -signal.SIGKILL
    again = finish(start(folder))
    assert "starts at 0" not in again[0]
    assert again[0][-1] == again[1][-1] == untouched[2]
    assert toy.metrics(folder) == toy.metrics(untouched[0])


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_when_one_falls_silent_the_other_ends(tmp_path, index):
    runs = start(tmp_path / "silent")
    runs[index].wait_for("saved 3")
    runs[index].send(signal.SIGSTOP)
    try:
        assert runs[1 - index].wait(BOUND_SECS) != 0
    finally:
        runs[index].kill()
    assert runs[index].wait(BOUND_SECS) == -signal.SIGKILL


@pytest.mark.slow
def test_a_signal_to_one_saves_and_stops_both(untouched, tmp_path):
    folder = tmp_path / "stopped"
    runs = start(folder)
    runs[1].wait_for("saved 3")
    runs[1].send(signal.SIGTERM)
    assert [run.wait(BOUND_SECS) for run in runs] == [143, 143]
    assert finish(start(folder))[0][-1] == untouched[2]
    assert toy.metrics(folder) == toy.metrics(untouched[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved_by", "count", "num_devices"), [("two", 1, 2), ("one", 2, 1)]
)
def test_a_state_goes_on_with_other_processes_and_devices(
    untouched, tmp_path, saved_by, count, num_devices
):
    source = untouched[0 if saved_by == "two" else 1]
    folder = tmp_path / "moved"
    shutil.copytree(source, folder)
    (folder / "final.npz").unlink()
    shutil.rmtree(folder / "24")
    lines = finish(start(folder, count=count, num_devices=num_devices))
    assert all("starts at 12" in text for text in lines)
    assert_close(folder, source)
