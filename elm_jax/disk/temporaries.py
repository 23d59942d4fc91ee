"""Hidden siblings in which files and folders are made, and what is left of them.

The maker of one holds its lock. So what a killed process has left can be told from
what a living one is at: `remove_left` removes the first and spares the second. Their
names are short, whatever the name of what is made.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator

from elm_jax.disk import locks

_LOCK = "lock"  # in a folder; a file is locked itself
_CONTENT = "content"
_START_BYTES = 40  # of the name of what is made
_ENDING = ".new"
_NAME = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})\.\w{8}\.new", re.DOTALL | re.ASCII)
# After which one counts as dead where locks tell nothing: on file systems without, or
# of another machine, as mounted buckets have them within a machine only.
STALE_SECS = 3600.0
_REMOVALS, _REMOVAL_SECS = 40, 0.05


@contextlib.contextmanager
def file(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields the handle and path of a new file beside `path`; removes what stays."""
    handle, temporary = _new_file(path)
    try:
        yield handle, temporary
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new empty folder in a hidden one beside `path`; then removes both."""
    handle, hidden = _new_folder(path)
    content = hidden / _CONTENT
    try:
        content.mkdir()  # with the permissions that any folder here gets
        yield content
    finally:
        remove(hidden)
        os.close(handle)


def remove_left(parent: pathlib.Path) -> None:
    """Removes files that dead processes left in a folder; none of living processes."""
    with os.scandir(parent) as entries:
        leftovers = [e for e in entries if _NAME.fullmatch(e.name)]
    for entry in leftovers:
        with contextlib.suppress(OSError):  # its maker is through with it
            _remove_if_dead(
                pathlib.Path(entry.path), is_folder=entry.is_dir(follow_symlinks=False)
            )


def _new_file(path: pathlib.Path) -> tuple[int, str]:
    while True:
        handle, temporary = tempfile.mkstemp(_ENDING, _start(path.name), path.parent)
        if _try_own(handle):
            return handle, temporary
        os.close(handle)


def _new_folder(path: pathlib.Path) -> tuple[int, pathlib.Path]:
    while True:
        hidden = tempfile.mkdtemp(_ENDING, _start(path.name), path.parent)
        handle = os.open(f"{hidden}/{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        if _try_own(handle):
            return handle, pathlib.Path(hidden)
        os.close(handle)


def _start(name: str) -> str:
    start = os.fsencode(name)[:_START_BYTES].decode("utf-8", "ignore")
    return f".{start}.{host()}."


def host() -> str:
    """Returns what names of this machine's files have: 8 hex digits."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _try_own(handle: int) -> bool:
    """Takes the lock of a new file; False if another process took that for left."""
    try:
        is_free = locks.try_take(handle)
    except NotImplementedError:
        is_free = True
    return is_free and os.fstat(handle).st_nlink > 0


def _remove_if_dead(path: pathlib.Path, *, is_folder: bool) -> None:
    is_old = time.time() - last_change(path) > STALE_SECS
    matched = _NAME.fullmatch(path.name)
    is_of_here = matched is not None and matched["host"] == host()
    try:
        handle = os.open(path / _LOCK if is_folder else path, os.O_RDWR)
    except FileNotFoundError:  # killed before it made it, or about to make it
        if is_old:
            shutil.rmtree(path, ignore_errors=True)
        return
    try:
        try:
            is_dead = locks.try_take(handle) and (is_of_here or is_old)
        except NotImplementedError:
            is_dead = is_old
        if is_dead and is_folder:
            shutil.rmtree(path, ignore_errors=True)
        elif is_dead:
            path.unlink()
    finally:
        os.close(handle)


def last_change(path: pathlib.Path) -> float:
    """Returns when a file, or anything in a folder, was changed, as the clock tells."""
    newest = path.lstat().st_mtime
    for parent, _, names in os.walk(path):
        for name in (".", *names):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.lstat(os.path.join(parent, name)).st_mtime)
    return newest


def discard(path: pathlib.Path) -> None:
    """Renames a folder, so that its name is free at once, then removes it."""
    discarded = path.with_name(f"{_start(path.name)}{secrets.token_hex(4)}{_ENDING}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, discarded)
        remove(discarded)


def remove(path: pathlib.Path) -> None:
    """Removes a folder in which threads of a failed write may still make files."""
    for _ in range(_REMOVALS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(_REMOVAL_SECS)
