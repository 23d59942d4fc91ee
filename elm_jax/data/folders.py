"""Folders that appear whole or not at all."""

import contextlib
import errno
import glob
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from elm_jax import errors

_STALE_SECS = 3600.0


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary sibling to write in, renamed to `path` when all went well.

    Whatever fails inside, nothing is left behind; what a killed process left an hour
    ago is cleared away. If another process made `path` meanwhile, its folder stays.

    Raises:
      DataError: The disk is full or the place cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with writing(path):
            yield pathlib.Path(temporary)
            os.chmod(temporary, 0o755)
            _rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: pathlib.Path) -> None:
    """Makes `folder` and tries to write in it, before long work begins.

    Raises:
      DataError: It cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=".try.", dir=folder))


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError into a DataError that says what could not be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise errors.DataError(
            errors.explain(
                found=f"{path} cannot be written: {error.strerror or error}",
                expected="a folder with write permission and free space",
                do="Free space or choose another folder; nothing half-written is left"
                if full
                else "Correct the permission or choose another folder",
            )
        ) from error


def _rename(temporary: str, path: pathlib.Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _remove_stale(path: pathlib.Path) -> None:
    for other in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError):  # its process ended meanwhile
            if time.time() - other.stat().st_mtime > _STALE_SECS:
                shutil.rmtree(other, ignore_errors=True)
