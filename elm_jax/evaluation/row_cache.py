"""Result rows in columns, so that a large file of lines opens without parsing them.

Beside `results.jsonl` lies a hidden file with the rows of its first bytes, in the
stream format of Apache Arrow. Nothing but time depends on it: it counts only if it is
whole, by its own hash, and if the file of lines still begins with the bytes that it was
made of, by theirs. It may be removed at any time.
"""

import functools
import json
import math
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import xxhash

from elm_jax import errors
from elm_jax.disk import files, json_files, seals
from elm_jax.evaluation import row_columns
from elm_jax.evaluation.results import ResultRow
from elm_jax.evaluation.row_columns import Coded, RowColumns

LEAST_BYTES = 2**20
"""Of lines; fewer are parsed in no time."""
_BLOCK_BYTES = 2**20


class Covered(NamedTuple):
    """Rows, and the lines that they are of.

    Attributes:
      rows: In the order of the lines, without those of a key that was there.
      num_bytes: Of the lines, from the first one on.
      num_lines: Number of the lines.
      hash: XXH3 of these bytes, as they were when the rows were read; to be copied.
        It tells damage and edits. Who wants to deceive writes both files anyway.
    """

    rows: RowColumns
    num_bytes: int
    num_lines: int
    hash: Any


class _Head(typing.TypedDict):
    fields: tuple[str, ...]
    num_bytes: int
    num_lines: int
    lines_xxh3: str
    rows_xxh3: str


NOTHING = Covered(row_columns.EMPTY, 0, 0, xxhash.xxh3_128())


def load(path: pathlib.Path) -> Covered:
    """Returns the cached rows of a file's first lines; `NOTHING` without a cache.

    Args:
      path: The file of lines.
    """
    import pyarrow as pa

    try:
        with _place(path).open("rb") as file:
            facts = json_files.parse(file.readline(json_files.MOST_LINE_BYTES))
            if json_files.misfits(facts, _Head, known_only=True):
                return NOTHING
            facts = seals.open_sealed(facts)
            if tuple(facts["fields"]) != row_columns.FIELDS:
                return NOTHING
            content = file.read()
        if xxhash.xxh3_128_hexdigest(content) != facts["rows_xxh3"]:
            return NOTHING
        lines = _lines_hash(path, facts["num_bytes"])
        if lines.hexdigest() != facts["lines_xxh3"]:
            return NOTHING
        table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
        rows = _rows(table)
    except (OSError, ValueError, pa.ArrowException):
        return NOTHING
    return Covered(rows, facts["num_bytes"], facts["num_lines"], lines)


def save(path: pathlib.Path, covered: Covered) -> None:
    """Caches rows, if the cache can hold them and the folder can be written.

    Args:
      path: The file of lines.
      covered: Its rows up to some line.
    """
    import pyarrow as pa

    try:
        table = _table(covered.rows)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
        head = _Head(
            fields=row_columns.FIELDS,
            num_bytes=covered.num_bytes,
            num_lines=covered.num_lines,
            lines_xxh3=covered.hash.hexdigest(),
            rows_xxh3=xxhash.xxh3_128_hexdigest(content),
        )
        line = json.dumps(seals.seal(head)).encode()
        files.write_bytes(_place(path), line + b"\n" + content)
    except (OSError, errors.ConfigError, ValueError, pa.ArrowException):
        return


def _place(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.rows")


def _lines_hash(path: pathlib.Path, num_bytes: int) -> Any:
    """Returns the hash of a file's first bytes.

    Raises:
      ValueError: It has fewer.
    """
    digest, num_left = xxhash.xxh3_128(), num_bytes
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_left:
            number = file.readinto(block[: min(num_left, _BLOCK_BYTES)])
            if not number:
                raise ValueError(f"{num_left} bytes fewer than {num_bytes}")
            digest.update(block[:number])
            num_left -= number
    return digest


@functools.cache
def _kinds() -> dict[str, tuple[set[type], Any]]:
    """Returns the exact types of each field's values, and the type of its column."""
    import pyarrow as pa

    hints = typing.get_type_hints(ResultRow)
    columns: dict[Any, Any] = {str: pa.dictionary(pa.int32(), pa.string())}
    columns |= {int: pa.int64(), float: pa.float64()}
    kinds: dict[str, tuple[set[type], Any]] = {}
    for name in row_columns.FIELDS:
        hint = hints[name]
        if typing.get_origin(hint) is Mapping:
            kinds[name] = ({dict}, columns[str])
            continue
        value_types = set(typing.get_args(hint)) or {hint}
        (plain,) = value_types - {types.NoneType}
        kinds[name] = (value_types, columns[plain])
    return kinds


def _table(rows: RowColumns) -> Any:
    """Returns rows as columns of Arrow.

    Raises:
      ValueError: A value is not of its field's very type, such as a float that was
        written without a point, so that the line would not come back.
    """
    import pyarrow as pa

    columns = {}
    for name, (value_types, kind) in _kinds().items():
        codes, values = rows.coded(name)
        if not value_types.issuperset(map(type, values)):
            raise ValueError(f"another type in {name}")
        if value_types == {dict}:
            values = [json.dumps(value) for value in values]
        is_text = pa.types.is_dictionary(kind)
        every = pa.array(values, pa.string() if is_text else kind)
        column = every.take(pa.array(codes))
        columns[name] = column.dictionary_encode() if is_text else column
    return pa.table(columns)


def _rows(table: Any) -> RowColumns:
    """Returns the rows of columns that `_table` made.

    Raises:
      ValueError: It did not make these, or they are of no rows.
    """
    import pyarrow as pa

    kinds = _kinds()
    if table.schema != pa.schema([(name, kind) for name, (_, kind) in kinds.items()]):
        raise ValueError("other columns")
    table.validate(full=True)
    for name, (value_types, _) in kinds.items():
        column = table.column(name)
        if column.num_chunks > 1 or (
            column.null_count and types.NoneType not in value_types
        ):
            raise ValueError(f"no column {name}")
    rows = RowColumns(
        len(table), lambda name: _coded(table.column(name), kinds[name][0] == {dict})
    )
    (values, counts) = (rows.coded(name).values for name in ("value", "num_examples"))
    if not all(map(math.isfinite, values)) or min(counts, default=1) < 1:
        raise ValueError("scores of nothing")
    for name, (value_types, _) in kinds.items():
        if value_types == {dict} and not all(
            type(v) is dict for v in rows.coded(name).values
        ):
            raise ValueError(f"no mappings in {name}")
    return rows


def _coded(column: Any, is_mapping: bool) -> Coded:
    import numpy as np
    import pyarrow as pa

    if not column.num_chunks:
        return Coded(np.zeros(0, np.int32), [])
    chunk = column.chunk(0)
    if not pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_encode(null_encoding="encode")
    values, indices = chunk.dictionary.to_pylist(), chunk.indices
    if indices.null_count:
        indices = indices.fill_null(len(values))
        values.append(None)
    if is_mapping:
        values = [json_files.parse(text) for text in values]
    return Coded(indices.to_numpy(), values)
