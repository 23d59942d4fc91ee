"""What a format of the fuzzer is: how a valid input is made, read and judged."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Valid(NamedTuple):
    """The two valid inputs of a format, which differ in content, and their readings."""

    folders: tuple[pathlib.Path, pathlib.Path]
    values: tuple[Any, Any]


class Format(NamedTuple):
    """A kind of file that users get from others.

    Attributes:
      make: Writes valid input 0 or 1 into an empty folder, by our own writers.
      read: Reads a folder as the binaries do; returns what came out.
      judge: Returns "" if a reading is right for the files as they are, else what is
        wrong. It parses them by other means, or knows that a checksum guards them.
      damaged: Patterns of the files to damage, with the mutators that know their kind.
    """

    make: Callable[[pathlib.Path, int], None]
    read: Callable[[pathlib.Path], Any]
    judge: Callable[[pathlib.Path, Any, Valid], str]
    damaged: Mapping[str, tuple[str, ...]]


def guarded(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Judges files with checksums: what is read is what was written, or the other's."""
    for copy, reading in zip(valid.folders, valid.values, strict=True):
        if same(value, reading) and (
            reading is valid.values[0] or content(folder) == content(copy)
        ):
            return ""
    return f"read {value!r:.300} instead of {valid.values[0]!r:.300}"


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the files of a folder by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(first: Any, second: Any) -> bool:
    """Returns whether two readings are equal, arrays and types included."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        kinds = (first.dtype, first.shape) == (second.dtype, second.shape)
        return kinds and first.tobytes() == second.tobytes()
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(
            same(first[k], second[k]) for k in first
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second
