"""Compiled programs in a folder, for the next run or for a machine that is not here.

They are entries of JAX's compilation cache: a run looks for its program by a hash of
all that decides it, and compiles what is not there. So a folder with other programs, or
of other versions of JAX, costs time but is never taken for the right one.
"""

import contextlib
import dataclasses
import importlib
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from elm_jax import errors, paths
from elm_jax.disk import files, folders
from elm_jax.partitioning import processes

_ENTRY = "-cache"  # how JAX's names of programs end
# How programs begin that JAX compressed by zlib, or by zstandard where that is there.
_ZLIB, _ZSTANDARD = b"\x78", b"\x28\xb5\x2f\xfd"
# JAX would name programs after the folder, too, in which it also keeps what it learns
# of kernels: a folder that was moved or copied would then be of no use.
# The others are as without JAX's variables, by which it would keep nothing or not all.
_SETTINGS = {
    "jax_persistent_cache_enable_xla_caches": "none",
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_entry_size_bytes": 0,
    "jax_compilation_cache_max_size": -1,
}


# What JAX tells of its cache while it runs, and of its compiler.
_TAKEN = "/jax/compilation_cache/cache_hits"
_TAKING_SECS = "/jax/compilation_cache/cache_retrieval_time_sec"
_ASKED_SECS = "/jax/core/compile/backend_compile_duration"  # of both


@dataclasses.dataclass(kw_only=True)
class Tally:
    """The programs that a process has compiled or read since it began to count.

    Attributes:
      num_taken: From the folder.
      num_asked: Taken or compiled.
      compile_secs: Time of the compiler.
    """

    num_taken: int = 0
    num_asked: int = 0
    compile_secs: float = 0.0

    def __str__(self) -> str:
        """Returns the line that a run ends with."""
        num_compiled = self.num_asked - self.num_taken
        secs = max(0.0, self.compile_secs)
        return (
            f"programs: {self.num_taken} taken, {num_compiled} compiled ({secs:.1f} s)"
        )

    def note(self, event: str, **_: Any) -> None:
        """Counts a program that was taken, if that is what JAX tells."""
        self.num_taken += event == _TAKEN

    def note_secs(self, event: str, duration_secs: float, **_: Any) -> None:
        """Counts a program and the time of its compiler, if that is told."""
        self.num_asked += event == _ASKED_SECS
        self.compile_secs += duration_secs * (
            (event == _ASKED_SECS) - (event == _TAKING_SECS)
        )


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
    JAX lets only the first one keep any. Files that a killed process has not written to
    their ends are removed, so that their programs are kept anew; one that another
    process is writing just now is then not kept, which costs time and nothing else.

    Args:
      folder: Need not be there.

    Raises:
      DataError: It cannot be made or written by the process that keeps programs.
    """
    if processes.is_main():
        folders.check_writable(folder)
        _remove_unfinished(folder)
    _configure({"jax_compilation_cache_dir": f"{folder}", **_SETTINGS})


@contextlib.contextmanager
def using(folder: pathlib.Path) -> Iterator[Tally]:
    """After `use`, counts programs within the context; tells them at its end.

    Args:
      folder: Where programs are kept; it need not be there.

    Raises:
      DataError: The folder cannot be made or written.
    """
    use(folder)
    tally = Tally()
    jax.monitoring.register_event_listener(tally.note)
    jax.monitoring.register_event_duration_secs_listener(tally.note_secs)
    try:
        yield tally
    finally:
        jax.monitoring.unregister_event_listener(tally.note)
        jax.monitoring.unregister_event_duration_listener(tally.note_secs)
        if processes.is_main():
            print(tally)  # noqa: T201


@contextlib.contextmanager
def into(folder: str) -> Iterator[list[str]]:
    """Keeps all programs that are compiled within the context; reads none from there.

    Args:
      folder: Need not be there; "" keeps nothing.

    Yields:
      A list that has the names of their files when the context has ended.
    """
    file_names: list[str] = []
    if not folder:
        yield file_names
        return
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old_settings = {name: getattr(jax.config, name) for name in (*names, *_SETTINGS)}
    # Compilers without a device cannot read programs, and JAX tries if one is there.
    with tempfile.TemporaryDirectory(prefix="elm_jax_programs_") as empty:
        _configure({**dict(zip(names, (empty, 0.0), strict=True)), **_SETTINGS})
        try:
            yield file_names
        finally:
            _configure(old_settings)
        for path in sorted(pathlib.Path(empty).glob(f"*{_ENTRY}")):
            files.write_bytes(pathlib.Path(folder, path.name), path.read_bytes())
            file_names.append(path.name)


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes files that JAX cannot read, and would not replace either.

    Programs that cannot be unpacked here for lack of a package are others', and stay.
    """
    unpackers = _unpackers()
    for path in sorted(folder.glob(f"*{_ENTRY}")):
        try:
            packed = path.read_bytes()
        except OSError:
            continue  # removed meanwhile, or JAX will say what is wrong
        if packed.startswith(_ZSTANDARD) and _ZSTANDARD not in unpackers:
            continue
        start = _ZSTANDARD if packed.startswith(_ZSTANDARD) else _ZLIB
        try:
            unpackers[start](packed)
        except Exception as error:  # noqa: BLE001 - zlib's, or zstandard's if there
            path.unlink(missing_ok=True)
            print(f"removed the unfinished program {path.name}: {error}")  # noqa: T201


def _unpackers() -> dict[bytes, Callable[[bytes], Any]]:
    """Returns the functions that unpack programs, by the programs' first bytes."""
    unpackers: dict[bytes, Callable[[bytes], Any]] = {_ZLIB: zlib.decompress}
    for name in ("zstandard", "compression.zstd"):  # of Python 3.14: the latter
        with contextlib.suppress(ImportError):
            unpackers[_ZSTANDARD] = importlib.import_module(name).decompress
    return unpackers


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else a cache that was opened before stays
