"""Result rows in columns, so that a large file of lines opens without parsing them.

Beside `results.jsonl` lies a hidden file with the rows of its first bytes, in the
stream format of Apache Arrow. Nothing but time depends on it: it counts only if it is
whole, by its own hash, and if the file of lines still begins with the bytes that it was
made of, by theirs. It may be removed at any time.
"""

import dataclasses
import functools
import gc
import hashlib
import json
import pathlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from elm_jax import errors
from elm_jax.disk import files, json_files, seals
from elm_jax.evaluation.results import ResultRow

LEAST_BYTES = 2**20
"""Of lines; fewer are parsed in no time."""
_FIELDS = tuple(field.name for field in dataclasses.fields(ResultRow))
_BLOCK_BYTES = 2**20


class Covered(NamedTuple):
    """Rows, and the lines that they are of.

    Attributes:
      rows: In the order of the lines, without those of a key that was there.
      num_bytes: Of the lines, from the first one on.
      num_lines: Number of the lines.
      hash: SHA-256 of these bytes, as they were when the rows were read; to be copied.
    """

    rows: list[ResultRow]
    num_bytes: int
    num_lines: int
    hash: Any


class _Head(typing.TypedDict):
    fields: tuple[str, ...]
    num_bytes: int
    num_lines: int
    lines_sha256: str
    rows_sha256: str


NOTHING = Covered([], 0, 0, hashlib.sha256())


def load(path: pathlib.Path) -> Covered:
    """Returns the rows of a file's first lines, as far as they are kept; or `NOTHING`.

    Args:
      path: The file of lines.
    """
    import pyarrow as pa

    try:
        head, _, content = _place(path).read_bytes().partition(b"\n")
        facts = json_files.parse(head)
        if json_files.misfits(facts, _Head, known_only=True):
            return NOTHING
        facts = seals.open_sealed(facts)
        if tuple(facts["fields"]) != _FIELDS:
            return NOTHING
        if hashlib.sha256(content).hexdigest() != facts["rows_sha256"]:
            return NOTHING
        lines = _lines_hash(path, facts["num_bytes"])
        if lines.hexdigest() != facts["lines_sha256"]:
            return NOTHING
        with without_collector():
            table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
            rows = _rows(table)
    except (OSError, ValueError, pa.ArrowException):
        return NOTHING
    return Covered(rows, facts["num_bytes"], facts["num_lines"], lines)


def save(path: pathlib.Path, covered: Covered) -> None:
    """Keeps rows, if they can be kept and the folder can be written.

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
            fields=_FIELDS,
            num_bytes=covered.num_bytes,
            num_lines=covered.num_lines,
            lines_sha256=covered.hash.hexdigest(),
            rows_sha256=hashlib.sha256(content).hexdigest(),
        )
        line = json.dumps(seals.seal(head)).encode()
        files.write_bytes(_place(path), line + b"\n" + content)
    except (OSError, errors.ConfigError, ValueError, pa.ArrowException):
        return


@contextmanager
def without_collector() -> Iterator[None]:
    """Makes many objects, none of which is garbage, without looking for garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _place(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.rows")


def _lines_hash(path: pathlib.Path, num_bytes: int) -> Any:
    """Returns the hash of a file's first bytes.

    Raises:
      ValueError: It has fewer.
    """
    found, left = hashlib.sha256(), num_bytes
    with path.open("rb", buffering=0) as file:
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise ValueError(f"{left} bytes fewer than {num_bytes}")
            found.update(block)
            left -= len(block)
    return found


@functools.cache
def _kinds() -> dict[str, tuple[set[type], Any]]:
    """Returns the exact types of each field's values, and the type of its column."""
    import pyarrow as pa

    hints = typing.get_type_hints(ResultRow)
    columns: dict[Any, Any] = {str: pa.dictionary(pa.int32(), pa.string())}
    columns |= {int: pa.int64(), float: pa.float64()}
    found: dict[str, tuple[set[type], Any]] = {}
    for name in _FIELDS:
        hint = hints[name]
        if typing.get_origin(hint) is Mapping:
            found[name] = ({dict}, columns[str])
            continue
        own = set(typing.get_args(hint)) or {hint}
        (plain,) = own - {types.NoneType}
        found[name] = (own, columns[plain])
    return found


def _table(rows: Sequence[ResultRow]) -> Any:
    """Returns rows as columns.

    Raises:
      ValueError: A value is not of its field's very type, such as a float that was
        written without a point, so that the line would not come back.
    """
    import pyarrow as pa

    columns = {}
    for name, (own, kind) in _kinds().items():
        values: list[Any] = [getattr(row, name) for row in rows]
        if not own.issuperset(map(type, values)):
            raise ValueError(f"another type in {name}")
        if own == {dict}:
            values = [json.dumps(value) for value in values]
        if pa.types.is_dictionary(kind):
            columns[name] = pa.array(values, pa.string()).dictionary_encode()
        else:
            columns[name] = pa.array(values, kind)
    return pa.table(columns)


def _rows(table: Any) -> list[ResultRow]:
    """Returns the rows of columns that `_table` made; checked before, so not again."""
    columns: list[Sequence[Any]] = []
    for name, (own, _) in _kinds().items():
        values = _values(table.column(name))
        if own == {dict}:
            known = {text: json.loads(text) for text in set(values)}
            values = [known[text] for text in values]
        columns.append(values)
    rows: list[ResultRow] = []
    make = ResultRow.__new__
    for values in zip(*columns, strict=True):
        row = make(ResultRow)
        object.__setattr__(row, "__dict__", dict(zip(_FIELDS, values, strict=True)))
        rows.append(row)
    return rows


def _values(column: Any) -> list[Any]:
    """Returns the values of a column; equal texts are one object."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    found: list[Any] = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        found += [None if i is None else texts[i] for i in chunk.indices.to_pylist()]
    return found
