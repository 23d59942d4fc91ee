"""Folders that appear whole or not at all, also when several processes make one.

Each writes into a temporary sibling of its own; one rename makes it the folder. Who
comes second leaves the first one's as it is and gets `ExistsError`: it compares what is
there with what it was asked for, as it would have with a folder of yesterday.
"""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

from elm_jax import errors
from elm_jax.disk import files, temporaries

_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CAUSES = (OSError, errors.ConfigError)


@contextlib.contextmanager
def new_folder(
    path: pathlib.Path,
    error_type: type[errors.ElmError] = errors.DataError,
    causes: tuple[type[Exception], ...] = _CAUSES,
) -> Iterator[pathlib.Path]:
    """Gives a temporary folder to write in, which is `path` when all went well.

    Whatever fails inside, nothing is left behind; what killed processes have left
    beside it is removed, and only that. When this returns the folder is on disk, so
    that neither a kill nor a failure of the machine tears it.

    Args:
      path: The folder to be; parents are made.
      error_type: Of the error that tells of one of `causes`.
      causes: What fails when there is no space or permission.

    Raises:
      ExistsError: Something is there already; it stays as it is.
    """
    with writing(path, error_type, causes):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporaries.remove_left(path.parent)
        with temporaries.folder(path) as partial:
            yield partial
            put(partial, path)
        files.sync(path.parent)


def put(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a finished folder to its final path, when all below it is on disk.

    Raises:
      ExistsError: Something is there already; both stay as they are.
    """
    _sync_below(partial)
    _rename(partial, path)


def check_is_new(path: pathlib.Path) -> None:
    """Raises ExistsError if there is something already."""
    if os.path.lexists(path):
        raise errors.ExistsError(
            found=f"{path} is there already",
            expected="a new folder: what is finished does not change",
            do="Choose another name, or remove the folder",
        )


def check_writable(folder: pathlib.Path) -> None:
    """Makes `folder` and tries to write in it, before long work begins.

    Raises:
      DataError: It cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=".try.", dir=folder))


@contextlib.contextmanager
def writing(
    path: pathlib.Path,
    error_type: type[errors.ElmError] = errors.DataError,
    causes: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Turns what fails into an error that says what could not be written, and why."""
    try:
        yield
    except causes as error:
        why = error.__cause__ if isinstance(error, errors.ConfigError) else error
        why = why or error
        full = isinstance(why, OSError) and why.errno in _FULL
        raise error_type(
            found=f"{path} cannot be written: {errors.reason(why)}",
            expected="a folder with write permission and free space",
            do="Free space or choose another folder; nothing half-written is left"
            if full
            else "Free space, correct the permission or choose another folder",
        ) from error


def _sync_below(folder: pathlib.Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            files.sync(os.path.join(parent, name))
        files.sync(parent)


def _rename(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a folder; an empty one at `path` is replaced, as nothing is lost."""
    try:
        os.rename(partial, path)
    except OSError as error:
        if error.errno in _OCCUPIED:
            check_is_new(path)
        raise
