import os
import re
import signal
import subprocess
import sys

import pytest

from elm_jax.disk import locks

HOLD = """
import sys
from elm_jax.disk import locks
with open(sys.argv[1], "a") as file:
    locks.take(file.fileno())
    print("held", flush=True)
    sys.stdin.read()
"""
WAIT = """
import signal, sys
from elm_jax.disk import locks
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
locks._FIRST_SECS, locks._EVERY_SECS = 0.2, 0.1
with open(sys.argv[1], "a") as file:
    locks.take(file.fileno(), of="expert x")
    print("held", flush=True)
"""


def start(code, path, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def holder(tmp_path):
    with start(HOLD, tmp_path / "lock") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_waits_says_for_whom_and_again(tmp_path, holder):
    with start(WAIT, tmp_path / "lock") as waiter:
        lines = [waiter.stderr.readline() for _ in range(3)]
        for line in lines:
            assert re.fullmatch(
                rf"expert x: waiting for process {holder.pid}, \d s so far\n", line
            )
        holder.kill()
        assert waiter.stdout.readline() == "held\n"


def test_a_stopped_process_is_called_so_with_what_lets_it_go_on(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with start(WAIT, tmp_path / "lock") as waiter:
        line = waiter.stderr.readline()
        assert f"process {holder.pid}, which is stopped" in line
        (command,) = re.findall(r"`(.*)`", line)
        subprocess.run(command, shell=True, check=True)
        holder.stdin.close()
        assert waiter.stdout.readline() == "held\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_can_be_ended(tmp_path, holder, number):
    with start(WAIT, tmp_path / "lock") as waiter:
        waiter.stderr.readline()
        waiter.send_signal(number)
        try:
            waiter.communicate(timeout=60)
        finally:
            waiter.kill()
        assert waiter.returncode == -number


def test_a_holder_that_this_machine_does_not_know_is_another(tmp_path, holder):
    """As on NFS, when the process is on another machine."""
    with open(tmp_path / "lock") as file:
        holder_told = locks._holder(file.fileno())
        assert holder_told == f"process {holder.pid}"
    (tmp_path / "free").touch()
    with open(tmp_path / "free") as file:
        assert "another process" in locks._holder(file.fileno())


def test_a_free_lock_is_taken_without_a_word(tmp_path, capfd):
    handle = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    assert locks.take(handle, of="expert x")
    assert not locks.take(os.open(tmp_path / "lock", os.O_RDWR), wait=False)
    assert capfd.readouterr() == ("", "")
