"""Training is killed for real, and goes on as if nothing had happened."""

import signal
import time

import pytest

from elm_jax.training import signals
from tests import forks
from tests.training import toy

pytestmark = pytest.mark.slow


def start(folder, *more):
    number = len([*folder.parent.glob("output*")])
    output = folder.parent / f"output{number}"
    return forks.Program("tests.training.killed_run", (folder, *more), output)


def send(process, number, *, after, delay_secs=0.0):
    """Sends a signal once a line is out; returns the exit status."""
    process.wait_for(after)
    time.sleep(delay_secs)
    process.send(number)
    begun = time.monotonic()
    status = process.wait(2 * signals.GRACE_SECS)
    assert time.monotonic() - begun < signals.GRACE_SECS
    return status


def finish(process):
    """Returns the last line: number of steps and bits of the final state."""
    assert process.wait(300) == 0, process.text()
    return process.lines()[-1]


def test_a_training_that_is_killed_ends_with_the_bits_of_one_that_is_not(tmp_path):
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    reference = start(untouched)
    # Between two saves, in the middle of one, and by a polite request.
    assert send(start(killed), signal.SIGKILL, after="saved 3") == -signal.SIGKILL
    expected = finish(reference)
    status = send(start(killed), signal.SIGKILL, after="saving 12", delay_secs=0.02)
    assert status == -signal.SIGKILL
    assert send(start(killed), signal.SIGTERM, after="saved 15") == 143
    (stopped_at,) = [int(path.name) for path in (killed / "states").iterdir()]
    assert stopped_at > 15  # SIGTERM saved the steps since
    assert finish(start(killed)) == expected
    assert expected.startswith("done 36 ")
    assert toy.metrics(killed) == toy.metrics(untouched)
    assert [row["step"] for row in toy.metrics(killed)] == list(range(4, 37, 4))


def test_a_signal_during_a_slow_step_loses_that_step_alone(tmp_path):
    process = start(tmp_path / "stuck", 5)
    assert send(process, signal.SIGTERM, after="stuck after 5") == 143
    assert [path.name for path in (tmp_path / "stuck" / "states").iterdir()] == ["5"]
