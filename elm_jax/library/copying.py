"""Copies a library, as the start of a larger one."""

import contextlib
import os
import pathlib
import shutil

from elm_jax import errors
from elm_jax.disk import folders
from elm_jax.library import catalogue, lock


def copy(old: pathlib.Path, new: pathlib.Path) -> None:
    """Makes `new` a copy of `old`, completely or not at all; checks it if it exists.

    Raises:
      LibraryError: There is no such library, or `new` does not extend it.
    """
    if not new.exists():
        _check_beside(old, new)
        with (
            contextlib.suppress(errors.ExistsError),  # another process was faster
            folders.new_folder(new, errors.LibraryError) as partial,
            # Several files, which another process may be extending.
            lock.hold(old) if os.access(old, os.W_OK) else contextlib.nullcontext(),
        ):
            shutil.copytree(old, partial, dirs_exist_ok=True)
    new_entries, old_entries = (
        catalogue.Catalogue(path).entries() for path in (new, old)
    )
    copied = {(e.name, e.path, e.fingerprint) for e in new_entries}
    lacking = [
        e.name for e in old_entries if (e.name, e.path, e.fingerprint) not in copied
    ]
    if lacking:
        raise errors.LibraryError(
            found=f"{new} without experts of {old}: {', '.join(lacking)}",
            expected="a library that extends it, and has all its experts",
            do="Choose another library_dir, or remove this library",
        )


def _check_beside(old: pathlib.Path, new: pathlib.Path) -> None:
    if old.parent != new.parent or not (old / catalogue.FILE_NAME).is_file():
        raise errors.LibraryError(
            found=f"{old} to be extended by {new}",
            expected="a library, and a new folder beside it: the catalogue names"
            " experts by relative paths",
            do="Build the first one, or choose a folder beside it",
        )
