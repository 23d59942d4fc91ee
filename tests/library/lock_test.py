"""Locks of folders between processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.library import lock

HOLD = """
import pathlib, sys
from elm_jax.library import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `a` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_folders_that_another_process_holds_are_left_out(tmp_path, holder):
    names = {tmp_path / "a": "a", tmp_path / "b": "b"}
    with lock.hold_free(names) as held:
        assert held == ["b"]


def test_all_folders_are_held_if_no_other_process_holds_them(tmp_path):
    names = {tmp_path / "a": "a", tmp_path / "b": "b"}
    for _ in range(2):
        with lock.hold_free(names) as held:
            assert held == ["a", "b"]


def test_if_all_are_held_it_waits_for_the_first(tmp_path, holder, capfd):
    holder.stdin.close()
    with lock.hold_free({tmp_path / "a": "a"}) as held:
        assert held == ["a"]


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold_free({tmp_path / "a": "a"}) as held:
        assert held == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.LibraryError), lock.hold(tmp_path / "a"):
        pass


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(errors.LibraryError, match="folder"), lock.hold(tmp_path / "a"):
        pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def no_locks(handle, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with lock.hold_free({tmp_path / "a": "a"}) as held:
        assert held == ["a"]
    assert "no file locks here" in capsys.readouterr().err
