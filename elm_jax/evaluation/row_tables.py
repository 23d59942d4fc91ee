"""Result rows as tables for other programs: CSV, and Parquet.

A table of rows has the fields of a result row as columns, in their order; a mapping is
a text of JSON, and what is not told is empty. A table of examples has a row for each
score of an example.
"""

import csv
import dataclasses
import io
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from elm_jax.evaluation.results import CELL_FIELDS, ResultRow

COLUMNS = tuple(field.name for field in dataclasses.fields(ResultRow))
_ROWS_AT_ONCE = 1000
_HINTS = typing.get_type_hints(ResultRow)
_MAPPINGS = tuple(n for n in COLUMNS if typing.get_origin(_HINTS[n]) is Mapping)


def _kind(hint: Any) -> type:
    """Returns the type of a field's values, `None` and mappings aside."""
    if typing.get_origin(hint) is Mapping:
        return str
    (plain,) = {*(typing.get_args(hint) or (hint,))} - {types.NoneType}
    return plain


_ROW_KINDS = {name: _kind(_HINTS[name]) for name in COLUMNS}
_EXAMPLE_KINDS = {
    **{name: _ROW_KINDS[name] for name in (*CELL_FIELDS, "metric")},
    **{"example_id": int, "value": float},
}


def csv_text(rows: Iterable[ResultRow]) -> str:
    """Returns rows as CSV with a heading; numbers have all their digits."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_values(row) for row in rows)
    return target.getvalue()


def write_parquet(target: BinaryIO, rows: Iterable[ResultRow]) -> None:
    """Writes rows as one Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    values = [_values(row) for row in rows]
    columns = {
        name: [row_values[i] for row_values in values] for i, name in enumerate(COLUMNS)
    }
    table = pa.table(columns, schema=_schema(_ROW_KINDS))
    parquet.write_table(table, target, compression="zstd")


def write_examples(
    target: BinaryIO,
    rows: Iterable[ResultRow],
    load: Callable[[ResultRow], Mapping[str, np.ndarray]],
) -> int:
    """Writes the scores of single examples as one Parquet file; returns their number.

    Args:
      target: A file that is open to be written.
      rows: Those of metrics that are no mean over examples, such as `chance`, or
        without per-example values, are left out. Of several rows of a cell and metric,
        by which a strategy tells several libraries, one stands for all.
      load: Returns a row's per-example arrays, as `ResultStore.per_example` does.

    Raises:
      DataError: The values of a row are missing or altered.
    """
    from pyarrow import parquet

    number = 0
    schema = _schema(_EXAMPLE_KINDS)
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        once = {r.key(r.metric): r for r in rows if r.per_example_path}
        for part in _parts(once.values()):
            table = _examples(part, load)
            writer.write_table(table)
            number += table.num_rows
    return number


def _examples(
    rows: Iterable[ResultRow], load: Callable[[ResultRow], Mapping[str, np.ndarray]]
) -> Any:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in _EXAMPLE_KINDS}
    ids, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    for row in rows:
        arrays = load(row)
        if row.metric in arrays:
            ids.append(arrays["example_ids"])
            scores.append(arrays[row.metric])
            for name in (*CELL_FIELDS, "metric"):
                columns[name] += [getattr(row, name)] * len(ids[-1])
    table: dict[str, Any] = {
        **columns,
        "example_id": np.concatenate(ids),
        "value": np.concatenate(scores).astype(np.float64),
    }
    return pa.table(table, schema=_schema(_EXAMPLE_KINDS))


def _values(row: ResultRow) -> list[Any]:
    values = []
    for name in COLUMNS:
        value = getattr(row, name)
        values.append(json.dumps(value) if name in _MAPPINGS else value)
    return values


def _parts(rows: Iterable[ResultRow]) -> Iterable[list[ResultRow]]:
    part: list[ResultRow] = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _schema(kinds: Mapping[str, type]) -> Any:
    import pyarrow as pa

    columns = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    return pa.schema([(name, columns[kind]) for name, kind in kinds.items()])
