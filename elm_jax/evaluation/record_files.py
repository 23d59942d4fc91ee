"""Opens files of per-example records, whatever lies there."""

import contextlib
import functools
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

VALUES_HASH = "values_sha256"
TEXT, ENDS = ".values", ".offsets"  # of an array of UTF-8 bytes, end to end
_MOST_SCHEMA_BYTES = 2**20
# What numpy raises for a file that is none of its own.
NO_ARRAYS = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile)


class Schema(NamedTuple):
    """The schema of a file's records."""

    value: Any  # pyarrow.Schema
    hash: Any  # of its bytes; to be copied
    content: bytes = b""  # these bytes
    hash_place: int = 0  # of the column with the hash of values
    # Place of each column of arrays, names of these, and whether they are of texts.
    arrays: tuple[tuple[int, tuple[str, ...], bool], ...] = ()


NO_SCHEMA = Schema(None, hashlib.sha256())


@functools.lru_cache(maxsize=64)
def _schema(path: str, stamp: tuple[int, int, int]) -> Schema:
    """Returns the schema of a file.

    Raises:
      OSError: It cannot be read.
      ValueError: It has none.
    """
    import pyarrow as pa

    del stamp  # tells a file from another one that took its name
    with open(path, "rb") as file:
        start = file.read(_MOST_SCHEMA_BYTES)
    source = pa.BufferReader(start)
    value = pa.ipc.read_schema(pa.ipc.read_message(source))
    hash_place, arrays = value.names.index(VALUES_HASH), []
    for place in range(hash_place + 1, len(value.names)):
        name, kind = value.names[place], value.field(place).type
        is_text = pa.types.is_large_string(getattr(kind, "value_type", None))
        names = (f"{name}{TEXT}", f"{name}{ENDS}") if is_text else (name,)
        arrays.append((place, names, is_text))
    content = start[: source.tell()]
    return Schema(value, hashlib.sha256(content), content, hash_place, tuple(arrays))


@functools.cache
def arrow_errors() -> tuple[type[Exception], ...]:
    """Returns what Arrow raises for content that is none of its own."""
    import pyarrow as pa

    return (pa.ArrowException,)


class OpenFile(NamedTuple):
    """A file of records that is open.

    Attributes:
      schema: Of its records.
    """

    handle: int
    size: int
    schema: Schema

    def record(self, offset: int, length: int) -> bytes:
        """Returns the bytes of a record, or nothing if the file does not hold them."""
        if offset < 0 or not 0 < length <= self.size - offset:
            return b""
        return os.pread(self.handle, length, offset)


@contextlib.contextmanager
def opened(path: str) -> Iterator[OpenFile | None]:
    """Opens a file of records; None if it is none."""
    try:
        # A pipe must not make us wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        yield None
        return
    try:
        yield _open_file(path, handle)
    finally:
        os.close(handle)


def _open_file(path: str, handle: int) -> OpenFile | None:
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return None
        schema = _schema(path, (facts.st_dev, facts.st_ino, facts.st_mtime_ns))
        return OpenFile(handle, facts.st_size, schema)
    except (*NO_ARRAYS, *arrow_errors()):
        return None


def whole(path: str) -> bytes:
    """Returns what a file of an earlier version holds; nothing of what is no file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    with open(handle, "rb") as file:
        try:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return file.read() if is_file else b""
        except OSError:
            return b""
