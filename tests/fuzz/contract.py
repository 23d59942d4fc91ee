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
    for known, reading in zip(valid.folders, valid.values, strict=True):
        if same(value, reading) and (
            reading is valid.values[0] or content(folder) == content(known)
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


def same(one: Any, other: Any) -> bool:
    """Returns whether two readings are equal, arrays and types included."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        kinds = (one.dtype, one.shape) == (other.dtype, other.shape)
        return kinds and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other
