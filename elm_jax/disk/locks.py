"""Locks of open files, and words about who is waited for.

The lock is the operating system's (`flock`) and goes with the process that holds it,
however that ends. A process that is stopped keeps it.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import sys
import threading
from collections.abc import Iterator

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_FIRST_SECS, _EVERY_SECS = 10.0, 60.0
_PROC = pathlib.Path("/proc")
_STOPPED = ("T", "t")  # by a signal, or by a debugger


def take(handle: int, *, wait: bool = True, of: object = "") -> bool:
    """Takes the lock of an open file for this process; returns whether it got it.

    Where the file system has no locks, this says so and counts as taken: whoever
    starts processes there must not start two for one job.

    Args:
      handle: Of a file that is open.
      wait: Whether to wait for another process that has it; after ten seconds, and
        every minute from then on, standard error tells for whom.
      of: What is locked, for people.
    """
    try:
        if not try_take(handle):
            if not wait:
                return False
            with _telling(handle, of):
                fcntl.flock(handle, fcntl.LOCK_EX)
    except NotImplementedError as error:
        _say(
            f"no file locks here ({error}): let only one process at a time do each job"
        )
    return True


def try_take(handle: int) -> bool:
    """Takes the lock of an open file if it is free; returns whether it was free.

    Raises:
      NotImplementedError: The file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise NotImplementedError(error.strerror) from error
    return True


@contextlib.contextmanager
def _telling(handle: int, of: object) -> Iterator[None]:
    """Says from time to time who has the lock, as long as the body waits for it."""
    ended = threading.Event()

    def tell() -> None:
        wait_secs, waited_secs = _FIRST_SECS, 0.0
        while not ended.wait(wait_secs):
            waited_secs += wait_secs
            wait_secs = _EVERY_SECS
            _say(f"{of}: waiting for {_holder(handle)}, {waited_secs:.0f} s so far")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _holder(handle: int) -> str:
    """Returns who has the lock of an open file, as far as this machine knows."""
    status = os.fstat(handle)
    for number in _holders(status.st_ino):
        if any(_is_same(opened, status) for opened in _opened(number)):
            state = _state(number)
            stopped = f", which is stopped (`kill -CONT {number}` lets it go on)"
            return f"process {number}{stopped if state in _STOPPED else ''}"
    return "another process, of another user or machine"


def _holders(inode: int) -> list[int]:
    """Returns processes that hold a lock of a file of this number, of any device."""
    try:
        lines = (_PROC / "locks").read_text("utf-8").splitlines()
    except OSError:  # no Linux
        return []
    # 1: FLOCK  ADVISORY  WRITE 24830 fe:00:2146326 0 EOF; those that wait have `->`.
    parts = [line.split() for line in lines if "->" not in line]
    locks = [p for p in parts if len(p) > 5 and p[5].rpartition(":")[2] == str(inode)]
    return [int(p[4]) for p in locks if p[4].isdecimal()]


def _opened(number: int) -> list[pathlib.Path]:
    try:
        return list((_PROC / str(number) / "fd").iterdir())
    except OSError:  # it has ended, or is another user's
        return []


def _is_same(path: pathlib.Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:
        return False


def _state(number: int) -> str:
    try:
        text = (_PROC / str(number) / "stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]  # after the name, which is in brackets


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
