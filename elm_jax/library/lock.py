"""One writer at a time in a library folder, on one machine or a shared file system."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from elm_jax import errors


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds the folder's lock, then holds it.

    The lock goes with the process, however it ends. Readers need none: files are
    replaced whole.

    Raises:
      LibraryError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise errors.LibraryError(
            errors.explain(
                found=f"library folder {folder}: {error.strerror or error}",
                expected="a folder with write permission and free space",
                do="Correct the permission, free space or choose another folder",
            )
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
