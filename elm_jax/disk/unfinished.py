"""Folders whose making goes on where a killed process stopped.

As `folders.new_folder`, but what is in the hidden sibling stays when the process is
killed or told to stop, and is given to the next one that makes the same thing. It bears
the names of what is made, of its recipe and of the machine: another recipe gets an
empty one, and what dead makers of other recipes left is removed. Locks may tell nothing
of other machines, so that what one of these makes is let be until nothing in it has
changed for an hour; then it is gone on with here.
"""

import contextlib
import hashlib
import os
import pathlib
import time
from collections.abc import Iterator

from elm_jax import errors
from elm_jax.disk import files, folders, locks, temporaries

_LOCK, _CONTENT = "lock", "content"
_START_BYTES = 40  # of the name of what is made
_ENDING = ".part"


@contextlib.contextmanager
def folder(
    path: pathlib.Path,
    recipe: str,
    error_type: type[errors.ElmError] = errors.DataError,
    causes: tuple[type[Exception], ...] = (OSError, errors.ConfigError),
) -> Iterator[pathlib.Path]:
    """Gives the folder to write in, which is `path` when all went well.

    After an error nothing is left. After a kill, or the end of the program by a signal,
    all stays that was written. A process that comes while another one makes the same
    waits for it.

    Args:
      path: The folder to be; parents are made.
      recipe: Text of all that decides what is made.
      error_type: Of the error that tells of one of `causes`.
      causes: What fails when there is no space or permission.

    Raises:
      ExistsError: Something is there already; it stays as it is.
    """
    with folders.writing(path, error_type, causes):
        path.parent.mkdir(parents=True, exist_ok=True)
        begin = f"{_start(path)}{_hash(recipe)}."
        hidden = path.parent / f"{begin}{temporaries.host()}{_ENDING}"
        if not hidden.exists():
            _adopt(hidden, begin)
        remove_left(path, but=hidden)
        with _locked(hidden, path):
            try:
                folders.check_is_new(path)
                content = hidden / _CONTENT
                content.mkdir(exist_ok=True)
                yield content
                folders.put(content, path)
            except Exception:
                temporaries.discard(hidden)
                raise
            temporaries.discard(hidden)
        files.sync(path.parent)


def remove_left(path: pathlib.Path, *, but: pathlib.Path | None = None) -> None:
    """Removes hidden folders beside `path` of dead processes, of any recipe.

    Args:
      path: The folder that they were to make.
      but: A folder that stays although its process is dead.
    """
    for place in _left(path.parent, _start(path)):
        if place != but:
            with _dead(place) as is_dead:
                if is_dead:
                    temporaries.discard(place)


def _left(parent: pathlib.Path, begin: str) -> list[pathlib.Path]:
    try:
        names = sorted(os.listdir(parent))
    except FileNotFoundError:
        return []
    return [parent / n for n in names if n.startswith(begin) and n.endswith(_ENDING)]


def _adopt(hidden: pathlib.Path, begin: str) -> None:
    """Takes over the folder of the same recipe that a dead process elsewhere left."""
    for place in _left(hidden.parent, begin):
        with _dead(place) as is_dead:
            if is_dead:
                with contextlib.suppress(OSError):  # another process has made it by now
                    os.rename(place, hidden)
                return


@contextlib.contextmanager
def _locked(hidden: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds its lock."""
    handle = -1
    while handle < 0:
        hidden.mkdir(exist_ok=True)
        try:
            handle = os.open(hidden / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # its maker is through with it, this moment
            continue
        locks.take(handle, of=path)
        if not _is_there(hidden / _LOCK, handle):  # its maker has finished since then
            os.close(handle)
            handle = -1
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _dead(place: pathlib.Path) -> Iterator[bool]:
    """Gives whether the maker of a folder is dead, and holds its lock if it is."""
    is_of_here = place.name.endswith(f".{temporaries.host()}{_ENDING}")
    try:
        handle = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # removed meanwhile, or another user's
        yield False
        return
    try:
        is_old = time.time() - temporaries.last_change(place) > temporaries.STALE_SECS
        is_free = locks.try_take(handle) and _is_there(place / _LOCK, handle)
        yield is_free and (is_of_here or is_old)
    except NotImplementedError:  # nobody can tell whether its maker lives
        yield False
    finally:
        os.close(handle)


def _is_there(path: pathlib.Path, handle: int) -> bool:
    """Returns whether an open file is still the one under its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _start(path: pathlib.Path) -> str:
    begin = os.fsencode(path.name)[:_START_BYTES].decode("utf-8", "ignore")
    return f".{begin}.{_hash(path.name)}."


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
