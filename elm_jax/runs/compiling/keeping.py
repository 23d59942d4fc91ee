"""Compiled programs in a folder, for the next run or for a machine that is not here.

They are entries of JAX's compilation cache: a run looks for its program by a hash of
all that decides it, and compiles what is not there. So a folder with other programs, or
of other versions of JAX, costs time but is never taken for the right one.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from elm_jax import errors, paths
from elm_jax.disk import files, folders
from elm_jax.partitioning import processes

_ENTRY = "-cache"  # how JAX's names of programs end
# JAX would name programs after the folder, too, in which it also keeps what it learns
# of kernels: a folder that was moved or copied would then be of no use.
# The others are as without JAX's variables, by which it would keep nothing or not all.
_SETTINGS = {
    "jax_persistent_cache_enable_xla_caches": "none",
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_entry_size_bytes": 0,
    "jax_compilation_cache_max_size": -1,
}


def folder_of(text: str) -> pathlib.Path:
    """Returns the absolute path of a folder for programs.

    Raises:
      ConfigError: The text is a URL, or no path.
    """
    if paths.is_url(text):
        raise errors.ConfigError(
            found=f"{text} as a folder for programs",
            expected="a folder of this machine, which need not be there",
            do="Mount the bucket and name the folder, or copy the folder to and from"
            " the bucket; programs are found in a folder that was copied",
        )
    return paths.absolute(text)


def use(folder: pathlib.Path) -> None:
    """Lets this process keep its programs in a folder, and take those that are there.

    Programs that take less than a second to compile are not kept. Of several processes
    JAX lets only the first one keep any.

    Args:
      folder: Need not be there.

    Raises:
      DataError: It cannot be made or written by the process that keeps programs.
    """
    if processes.is_main():
        folders.check_writable(folder)
    _configure({"jax_compilation_cache_dir": f"{folder}", **_SETTINGS})


@contextlib.contextmanager
def into(folder: str) -> Iterator[list[str]]:
    """Within the context all programs that are compiled are kept, taking none from it.

    Args:
      folder: Need not be there; "" keeps nothing.

    Yields:
      A list that has the names of their files when the context has ended.
    """
    kept: list[str] = []
    if not folder:
        yield kept
        return
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in (*names, *_SETTINGS)}
    # Compilers without a device cannot read programs, and JAX tries if one is there.
    with tempfile.TemporaryDirectory(prefix="elm_jax_programs_") as empty:
        _configure({**dict(zip(names, (empty, 0.0), strict=True)), **_SETTINGS})
        try:
            yield kept
        finally:
            _configure(before)
        for path in sorted(pathlib.Path(empty).glob(f"*{_ENTRY}")):
            files.write_bytes(pathlib.Path(folder, path.name), path.read_bytes())
            kept.append(path.name)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else a cache that was opened before stays
