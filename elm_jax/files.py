"""Atomic writes: a reader sees the old file or the whole new one, never a part."""

import errno
import fcntl
import os
import pathlib
import sys
import tempfile

from elm_jax import errors


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file by way of a temporary sibling and a rename; makes its folder.

    Raises:
      ConfigError: The disk is full or the folder cannot be written. The old file,
        if any, is still there.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            pathlib.Path(temporary).unlink(missing_ok=True)
        raise errors.ConfigError(
            errors.explain(
                found=f"{path} cannot be written: {error.strerror or error}",
                expected="a folder with write permission and free space",
                do="Free space, correct the permission or choose another folder",
            )
        ) from error


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes UTF-8 text as `write_bytes` does, whatever the locale says.

    Bytes of a path that are not UTF-8 come out as they were.
    """
    write_bytes(path, content.encode("utf-8", "surrogateescape"))


def read_text(path: pathlib.Path) -> str:
    """Returns what `write_text` wrote."""
    return path.read_text("utf-8", "surrogateescape")


_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def lock(handle: int, *, wait: bool = True) -> bool:
    """Takes the lock of an open file for this process, and tells whether it has it.

    The lock is the operating system's (`flock`) and goes with the handle. Where the
    file system has none, this says so and counts as taken: whoever starts processes
    there must not start two for one job.

    Args:
      handle: Of a file that is open.
      wait: Whether to wait for another process that has it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        sys.stderr.write(
            f"no file locks here ({error.strerror}): let only one process at a time"
            " do each job\n"
        )
    return True
