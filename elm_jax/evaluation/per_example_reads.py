"""Reads the per-example values of many rows at once, such as all those of an expert.

The records of a file are read as one stream, and only the arrays that are asked for are
decoded. Each record is compared with its hash, as always. Whatever is not as usual is
read row by row, which says what is wrong.
"""

import itertools
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from elm_jax.evaluation import per_example_files, record_files
from elm_jax.evaluation.results import PLACE_FIELDS
from elm_jax.evaluation.row_columns import RowColumns

_MOST_BYTES = 2**26  # of records that are read at once
_Arrays = Mapping[str, np.ndarray]


class _Place(NamedTuple):
    """Where the record of a row lies, and what it is to hold."""

    path: str | None
    offset: int | None
    length: int | None
    record_hash: str | None
    values_hash: str | None

    @property
    def is_usual(self) -> bool:
        return bool(self.path) and (self.offset or -1) > 0 and (self.length or 0) > 0


def read(
    rows_path: pathlib.Path, rows: RowColumns, only: Sequence[str]
) -> Iterator[_Arrays]:
    """Yields the arrays of each row, as `per_example_files.read` returns them.

    Args:
      rows_path: The file of the rows.
      rows: The rows, each of which names a file.
      only: Names of the arrays that are asked for, of numbers.

    Raises:
      DataError: A file is missing or altered.
    """
    names = (*PLACE_FIELDS, "per_example_sha256")
    columns = [rows.coded(name).listed() for name in names]
    places = [_Place(*fields) for fields in zip(*columns, strict=True)]
    start = 0
    while start < len(places):
        end = _end_of_part(places, start)
        arrays = None
        if end > start + 1:
            arrays = _together(rows_path, places[start:end], only)
        if arrays is None:
            for place in range(start, end):
                yield per_example_files.read(rows_path, rows[place], only)
        else:
            yield from arrays
        start = end


def _end_of_part(places: Sequence[_Place], start: int) -> int:
    """Returns the end of the records of one file that are read at once."""
    end, size = start, 0
    while end < len(places) and places[end].is_usual:
        size += places[end].length or 0
        if places[end].path != places[start].path or size > _MOST_BYTES:
            break
        end += 1
    return max(end, start + 1)


def _together(
    rows_path: pathlib.Path, places: Sequence[_Place], only: Collection[str]
) -> list[_Arrays] | None:
    """Returns the arrays of records of one file; None if they need the slower way."""
    path = os.path.join(rows_path.parent, f"{places[0].path}")
    with record_files.opened(path) as file:
        if file is None:
            return None
        records = _records(file, places)
        schema = file.schema
    for place, record in zip(places, records, strict=True):
        digest = schema.hash.copy()
        digest.update(record)
        if digest.hexdigest() != place.record_hash:
            return None
    table = _table(schema, records, only)
    if table is None:
        return None
    if table.column(record_files.VALUES_HASH).to_pylist() != [
        place.values_hash for place in places
    ]:
        return None
    names = [name for name in table.column_names if name in only]
    try:
        parts = [_parts(table.column(name)) for name in names]
    except (ValueError, AttributeError):  # no lists of numbers
        return None
    return [
        dict(zip(names, arrays, strict=True)) for arrays in zip(*parts, strict=True)
    ]


def _parts(column: Any) -> list[np.ndarray]:
    """Returns the list of each row."""
    lists = column.combine_chunks()
    values = lists.values.to_numpy(zero_copy_only=False)
    ends = lists.offsets.to_numpy().tolist()
    return [values[a:b] for a, b in itertools.pairwise(ends)]


def _records(
    file: record_files.OpenFile, places: Sequence[_Place]
) -> list[bytes | memoryview]:
    """Returns records; records that follow each other are read at once."""
    offsets = [place.offset or 0 for place in places]
    lengths = [place.length or 0 for place in places]
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=True)]
    if offsets[1:] != ends[:-1]:
        return [*map(file.record, offsets, lengths)]
    whole = memoryview(file.record(offsets[0], ends[-1] - offsets[0]))
    start = offsets[0]
    return [whole[a - start : b - start] for a, b in zip(offsets, ends, strict=True)]


def _table(
    schema: record_files.Schema,
    records: Sequence[bytes | memoryview],
    only: Collection[str],
) -> Any:
    """Returns records as a table of the columns that are asked for, a chunk of each."""
    import pyarrow as pa

    fields = [schema.hash_place]
    for place, names, is_text in schema.arrays:
        if any(name in only for name in names):
            if is_text:
                return None
            fields.append(place)
    if len(fields) < 2:
        return None
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    stream = pa.py_buffer(b"".join([schema.content, *records]))
    try:
        table = pa.ipc.open_stream(stream, options=options).read_all()
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException):
        return None
    is_usual = [len(chunk) for chunk in table.column(0).chunks] == [1] * len(records)
    return table if is_usual and not any(c.null_count for c in table.columns) else None
