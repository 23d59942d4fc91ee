"""One writer at a time in a folder, on one machine or a shared file system.

A lock is released when the process that holds it ends, however it ends. It is a lock of
the operating system (`flock`). On NFS and other file systems of clusters it works
between machines; on a bucket that is mounted as a folder only between the processes of
one machine. Readers need no lock, because files and folders are replaced atomically.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping

from elm_jax import errors
from elm_jax.disk import locks


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds the folder's lock, then holds it.

    After ten seconds, and then every minute, standard error says which process it
    waits for.

    Raises:
      LibraryError: The folder cannot be made or written.
    """
    handle = _open(folder)
    try:
        locks.take(handle, of=folder)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def hold_free(names: Mapping[pathlib.Path, str]) -> Iterator[list[str]]:
    """Holds the locks of all the folders that no other process holds.

    If other processes hold all of them, waits for the first.

    Args:
      names: What each folder is for, one or more.

    Yields:
      The names of the folders that are held, in the order given.

    Raises:
      LibraryError: A folder cannot be made or written.
    """
    with contextlib.ExitStack() as held:
        free = [
            name for folder, name in names.items() if held.enter_context(_try(folder))
        ]
        if not free:
            folder, name = next(iter(names.items()))
            print(f"{name}: another process is at it; waiting", flush=True)  # noqa: T201
            held.enter_context(hold(folder))
            free = [name]
        yield free


@contextlib.contextmanager
def _try(folder: pathlib.Path) -> Iterator[bool]:
    """Takes the folder's lock if it is free; returns whether it was."""
    handle = _open(folder)
    try:
        yield locks.take(handle, wait=False)
    finally:
        os.close(handle)


def _open(folder: pathlib.Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise errors.LibraryError(
            found=f"folder {folder}: {error.strerror or error}",
            expected="a folder with write permission and free space",
            do="Correct the permission, free space or choose another folder",
        ) from error
