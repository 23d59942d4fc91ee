"""Folders whose making goes on where a killed process stopped.

As `folders.new_folder`, but what is in the hidden sibling stays when the process is
killed or told to stop, and is given to the next one that makes the same thing. It bears
the names of what is made and of its recipe: another recipe gets an empty one, and what
dead makers of other recipes left is removed.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
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
        made = path.parent / f"{_start(path)}{_hash(recipe)}{_ENDING}"
        remove_left(path, but=made)
        with _locked(made, path):
            try:
                folders.check_is_new(path)
                content = made / _CONTENT
                content.mkdir(exist_ok=True)
                yield content
                folders.put(content, path)
            except Exception:
                temporaries.remove(made)
                raise
            temporaries.remove(made)
        files.sync(path.parent)


def remove_left(path: pathlib.Path, *, but: pathlib.Path | None = None) -> None:
    """Removes what dead makers of a folder left beside it, whatever their recipe.

    Args:
      path: The folder that they were to make.
      but: What stays.
    """
    start = _start(path)
    with contextlib.suppress(FileNotFoundError), os.scandir(path.parent) as entries:
        left = [e.path for e in entries if e.name.startswith(start)]
        for place in map(pathlib.Path, left):
            if place != but and place.suffix == _ENDING:
                _remove_if_dead(place)


@contextlib.contextmanager
def _locked(made: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    """Makes a folder and holds its lock."""
    handle = -1
    while handle < 0:
        made.mkdir(exist_ok=True)
        try:
            handle = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # its maker is through with it, this moment
            continue
        locks.take(handle, of=path)
        if os.fstat(handle).st_nlink == 0:  # its maker was through with it meanwhile
            os.close(handle)
            handle = -1
    try:
        yield
    finally:
        os.close(handle)


def _remove_if_dead(place: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if locks.try_take(handle):
                shutil.rmtree(place, ignore_errors=True)
        except NotImplementedError:  # nobody can tell whether its maker lives
            pass
        finally:
            os.close(handle)


def _start(path: pathlib.Path) -> str:
    begin = os.fsencode(path.name)[:_START_BYTES].decode("utf-8", "ignore")
    return f".{begin}.{_hash(path.name)}."


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
