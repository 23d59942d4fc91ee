"""Atomic writes: a reader sees the old file or the whole new one, never a part."""

import errno
import os
import pathlib

from elm_jax import errors
from elm_jax.disk import temporaries

_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file by way of a temporary sibling and a rename; makes its folder.

    Raises:
      ConfigError: The disk is full or the folder cannot be written. The old file,
        if any, is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporaries.remove_left(path.parent)
        with temporaries.file(path) as (handle, temporary):
            with os.fdopen(handle, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(handle)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise errors.ConfigError(
            found=f"{path} cannot be written: {error.strerror or error}",
            expected="a folder with write permission and free space",
            do="Free space, correct the permission or choose another folder",
        ) from error


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes UTF-8 text as `write_bytes` does, whatever the locale says.

    Bytes of a path that are not UTF-8 come out as they were.
    """
    write_bytes(path, content.encode("utf-8", "surrogateescape"))


def read_text(path: pathlib.Path) -> str:
    """Returns what `write_text` wrote."""
    return path.read_text("utf-8", "surrogateescape")


def sync(path: str | pathlib.Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk.

    File systems that cannot do so for folders are let be.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
