"""Atomic writes: a reader sees the old file or the whole new one, never a part."""

import os
import pathlib
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
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, content.encode())
