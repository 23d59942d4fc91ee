"""Values of single examples: many cells in one file, which others can read.

A file is a stream of Apache Arrow: a schema, and then a record for each cell, which is
a batch of one row. Its columns tell the cell and a hash of the values; then comes a
column for each array, whose single entry is the list of all its numbers or texts.

    pyarrow.ipc.open_stream(path).read_all()

A file only grows. A record is on disk before a result row names it, by its place and
hash; so a killed run leaves at most one incomplete record at the end, which the next
writer cuts off. A complete one that no row names is used by the next run that has the
same to record: so a run that was killed and started again leaves the same files as one
that was not, and nothing that a row of some other file may name is ever removed.

Reference: Apache Arrow Columnar Format, "Serialization and Interprocess Communication".
"""

import dataclasses
import errno
import hashlib
import io
import os
import pathlib
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.disk import files
from elm_jax.evaluation.record_files import (
    ENDS,
    NO_ARRAYS,
    NO_SCHEMA,
    TEXT,
    VALUES_HASH,
    Schema,
    arrow_errors,
    opened,
    whole,
)
from elm_jax.evaluation.results import CELL_FIELDS, Cell, ResultRow

FOLDER = "per_example"
"""Beside the result rows."""
_NAME = re.compile(r"[\w.-]+\.arrow")


class Place(NamedTuple):
    """Where a record lies, as result rows tell it.

    Attributes:
      per_example_path: The file, relative to the folder of the rows.
      per_example_offset: Of its first byte.
      per_example_length: The length of the record in bytes.
      per_example_record_sha256: Hash of the file's schema and these bytes.
    """

    per_example_path: str
    per_example_offset: int
    per_example_length: int
    per_example_record_sha256: str


@dataclasses.dataclass
class _Tail:
    """What this process knows of the end of a file that it appends to."""

    end: int  # of the last complete record
    unnamed: dict[str, Place]  # complete records that no row names, by hash


class Records:
    """The files beside some result rows to which one process appends.

    Whoever appends holds the lock of the rows.

    Args:
      rows_path: The file of the rows, whose name begins the names of new files.
    """

    def __init__(self, rows_path: pathlib.Path) -> None:
        self._folder, self._stem = rows_path.parent, rows_path.stem
        self._tails: dict[str, _Tail] = {}

    def append(
        self, cell: Cell, arrays: Mapping[str, np.ndarray], ends: Mapping[str, int]
    ) -> Place:
        """Appends a record, unless an equal record is there that no row names yet.

        Args:
          cell: What was scored.
          arrays: By name, each of one dimension.
          ends: By path, where the last record ends that a row names; paths in the
            order in which rows named them first.

        Raises:
          OSError: The disk is full, or a file cannot be written.
        """
        schema, record = _encoded(cell, arrays)
        digest = hashlib.sha256(schema + record).hexdigest()
        path = self._choose(schema, ends, digest)
        with open(self._folder / path, "r+b", buffering=0) as file:
            tail = self._tail(path, file, schema, ends.get(path, len(schema)))
            if digest in tail.unnamed:
                return tail.unnamed.pop(digest)
            _write(file, record, at=tail.end)
        place = Place(path, tail.end, len(record), digest)
        tail.end += len(record)
        return place

    def _choose(self, schema: bytes, ends: Mapping[str, int], digest: str) -> str:
        """Returns the path of a file of this schema, made if there is none."""
        for path in [*ends][::-1]:
            name = path.removeprefix(f"{FOLDER}/")
            is_ours = path != name and _NAME.fullmatch(name)
            if is_ours and self._begins(path, schema, least=ends[path]):
                return path
        # Two machines, or two shards, whose files are brought together later, do not
        # give one name to two files; a run that was killed finds its own again.
        mark = hashlib.sha256(f"{socket.gethostname()} {digest}".encode()).hexdigest()
        for count in range(100):
            number = f"-{count}" if count else ""
            path = f"{FOLDER}/{self._stem}-{mark[:8]}{number}.arrow"
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "ab", buffering=0) as file:
                if file.seek(0, os.SEEK_END) < len(schema):  # new, or cut by a kill
                    file.truncate(0)
                    _write(file, schema, at=0)
            files.sync(target.parent)
            if self._begins(path, schema, least=len(schema)):
                return path
        why = "a hundred files of other content"
        raise FileExistsError(errno.EEXIST, why, f"{self._folder / FOLDER}")

    def _begins(self, path: str, schema: bytes, *, least: int) -> bool:
        target = self._folder / path
        try:
            if not target.is_file() or target.stat().st_size < least:
                return False
            with target.open("rb") as file:
                return file.read(len(schema)) == schema
        except OSError:
            return False

    def _tail(self, path: str, file: io.FileIO, schema: bytes, named_end: int) -> _Tail:
        """Returns the end of a file, after what is incomplete was cut off."""
        tail = self._tails.setdefault(path, _Tail(named_end, {}))
        size = file.seek(0, os.SEEK_END)
        if size != tail.end:
            tail.end = max(tail.end, named_end)
            for offset, record in _records(self._folder / path, tail.end):
                digest = hashlib.sha256(schema + record).hexdigest()
                tail.unnamed[digest] = Place(path, offset, len(record), digest)
                tail.end = offset + len(record)
            file.truncate(tail.end)
        return tail


def read(
    rows_path: pathlib.Path, row: ResultRow, only: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Returns the arrays of a row's record; or of its file, in older stores.

    Args:
      rows_path: The file of the rows.
      row: One that names a file.
      only: Names of those that are asked for; all by default.

    Raises:
      DataError: The file is missing or altered.
    """
    path = os.path.join(rows_path.parent, f"{row.per_example_path}")
    is_record = row.per_example_offset is not None
    sha256 = row.per_example_record_sha256 if is_record else row.per_example_sha256
    schema, content = _content(path, row)
    digest = schema.hash.copy()
    digest.update(content)
    if digest.hexdigest() != sha256:
        state = "altered" if os.path.isfile(path) else "missing"
        unit = "a record" if is_record else "the file"
        start = f" from byte {row.per_example_offset} on" if is_record else ""
        raise errors.DataError(
            found=f"{path} is {state} ({row.expert} on {row.task})",
            expected=f"{unit} with SHA-256 {sha256}{start}",
            do=f"Remove the row from {rows_path} and score it again",
        )
    try:
        if is_record:
            return _decoded(schema, content, row.per_example_sha256, only)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = [n for n in arrays.files if not only or n in only]
            return {name: arrays[name] for name in names}
    except (*NO_ARRAYS, *arrow_errors()) as error:
        raise errors.DataError(
            found=f"{path} is no file of arrays: {error} ({row.expert} on {row.task})",
            expected="per-example values, as elm_eval writes them",
            do=f"Remove the row from {rows_path} and score it again",
        ) from error


def values_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the hash of arrays, wherever they are kept: of the bytes as `.npz`."""
    buffer = io.BytesIO()
    # Not compressed: the hash must not depend on zlib's version.
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _content(path: str, row: ResultRow) -> tuple[Schema, bytes]:
    """Returns a file's schema, if it has one, and the bytes that a row names.

    Or as many of them as are there.
    """
    if row.per_example_offset is None:
        return NO_SCHEMA, whole(path)
    with opened(path) as file:
        if file is None:
            return NO_SCHEMA, b""
        try:
            place = row.per_example_offset, row.per_example_length or 0
            return file.schema, file.record(*place)
        except OSError:
            return NO_SCHEMA, b""


def _encoded(cell: Cell, arrays: Mapping[str, np.ndarray]) -> tuple[bytes, bytes]:
    """Returns the schema and the record of a cell, as bytes of an Arrow stream."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in CELL_FIELDS:
        value = getattr(cell, name)
        kind = pa.int64() if isinstance(value, int) else pa.string()
        columns[name] = pa.array([value], kind)
    columns[VALUES_HASH] = pa.array([values_hash(arrays)])
    for name, array in arrays.items():
        stem = name.removesuffix(TEXT)
        if name.removesuffix(ENDS) + TEXT in arrays and name.endswith(ENDS):
            continue
        if stem != name and stem + ENDS in arrays:
            values = _texts(array, arrays[stem + ENDS])
            ends = pa.array([0, len(values)], pa.int64())
            columns[stem] = pa.LargeListArray.from_arrays(ends, values)
        else:
            ends = pa.array([0, len(array)], pa.int64())
            columns[name] = pa.LargeListArray.from_arrays(ends, pa.array(array))
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    return batch.schema.serialize().to_pybytes(), batch.serialize().to_pybytes()


def _texts(values: np.ndarray, offsets: np.ndarray) -> Any:
    """Returns an array of texts, of their UTF-8 bytes end to end."""
    import pyarrow as pa

    buffers = [
        None,
        pa.py_buffer(np.ascontiguousarray(offsets, np.int64)),
        pa.py_buffer(np.ascontiguousarray(values, np.uint8)),
    ]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)


def _decoded(
    schema: Schema, content: bytes, digest: str | None, only: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns the arrays of a record.

    Raises:
      ValueError: It is no record of the schema, or of values of another hash.
    """
    import pyarrow as pa

    batch = pa.ipc.read_record_batch(pa.py_buffer(content), schema.value)
    batch.validate(full=True)
    if batch.column(schema.hash_place)[0].as_py() != digest:
        raise ValueError(f"a record of other values than those with SHA-256 {digest}")
    arrays: dict[str, np.ndarray] = {}
    for place, names, is_text in schema.arrays:
        if only and not any(name in only for name in names):
            continue
        values = batch.column(place).values
        if is_text:
            arrays |= zip(names, _bytes_of(values), strict=True)
        else:
            arrays[names[0]] = np.array(values.to_numpy(zero_copy_only=False))
    return arrays


def _bytes_of(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the UTF-8 bytes of texts, end to end, and where each begins and ends."""
    _, ends, content = texts.buffers()
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(ends, np.int64)[: len(texts) + 1].copy()
    return np.frombuffer(content or b"", np.uint8)[: offsets[-1]].copy(), offsets


def _records(path: pathlib.Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Yields the offset and bytes of each complete record from a place on."""
    import pyarrow as pa

    # Mapped, so that no length that a file claims takes memory.
    with pa.memory_map(f"{path}") as source:
        offset = start
        while True:
            source.seek(offset)
            try:
                message = pa.ipc.read_message(source)
            except (*NO_ARRAYS, pa.ArrowException):
                return
            if message.type != "record batch":
                return
            end = source.tell()
            source.seek(offset)
            yield offset, source.read(end - offset)
            offset = end


def _write(file: io.FileIO, content: bytes, *, at: int) -> None:
    """Writes at the end of a file, all or nothing, and waits for the disk."""
    file.seek(at)
    try:
        if file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(at)
        raise
