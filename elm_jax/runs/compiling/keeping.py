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

from elm_jax.disk import files

_ENTRY = "-cache"  # how JAX's names of programs end
# JAX would name programs after the folder, too, in which it also keeps what it learns
# of kernels: a folder that was moved or copied would then be of no use.
_SETTINGS = {"jax_persistent_cache_enable_xla_caches": "none"}


def use(folder: pathlib.Path) -> None:
    """Lets this process keep its programs in a folder, and take those that are there.

    Programs that take less than a second to compile are not kept.

    Args:
      folder: Need not be there.
    """
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
