"""Result rows as lines of JSON: parsed a few thousand at a time."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence

from elm_jax import errors
from elm_jax.disk import json_files
from elm_jax.evaluation import row_cache, row_columns
from elm_jax.evaluation.results import ResultRow
from elm_jax.evaluation.row_columns import RowColumns

ROWS_AT_ONCE = 4096
"""That are parsed before they go into columns."""
_WITH_DEFAULT = tuple(
    field.name
    for field in dataclasses.fields(ResultRow)
    if field.default is not dataclasses.MISSING
    or field.default_factory is not dataclasses.MISSING
)


def read_rows(path: str | pathlib.Path) -> RowColumns:
    """Returns the rows of a file, or none if there is no file; see `ResultStore`."""
    return _all(pathlib.Path(path), row_cache.NOTHING)


def peek(path: pathlib.Path) -> RowColumns:
    """Returns the same, fast where rows are kept; writes nothing."""
    return _all(path, row_cache.load(path))


def _all(path: pathlib.Path, cached: row_cache.Covered) -> RowColumns:
    parts = [cached.rows]

    def keep(rows: Sequence[ResultRow]) -> None:
        parts.append(row_columns.of(rows).packed())

    read(path, start=cached, keep=keep)
    return row_columns.joined(parts)


def read(
    path: pathlib.Path,
    *,
    start: row_cache.Covered,
    keep: Callable[[Sequence[ResultRow]], None],
) -> tuple[row_cache.Covered, bool]:
    """Reads the lines of a file from some place on.

    Args:
      path: Of the file; there need be none.
      start: The lines before that place, which are not read.
      keep: Takes the rows of the lines that are read, some thousand at a time.

    Returns:
      Where the last whole line ends, without rows; and whether a row comes after it,
      whose line has no end.

    Raises:
      DataError: The file cannot be read, or a line is no row.
    """
    covered = start._replace(rows=row_columns.EMPTY, hash=start.hash.copy())
    if not path.exists():
        return row_cache.NOTHING._replace(hash=row_cache.NOTHING.hash.copy()), False
    tail = b""
    try:
        with path.open("rb") as file:
            file.seek(start.num_bytes)
            while lines := [*itertools.islice(file, ROWS_AT_ONCE)]:
                if not lines[-1].endswith(b"\n"):
                    tail = lines.pop()
                number = covered.num_lines + 1
                keep([_parse(line, path, i) for i, line in enumerate(lines, number)])
                content = b"".join(lines)
                covered.hash.update(content)
                covered = covered._replace(
                    num_bytes=covered.num_bytes + len(content),
                    num_lines=covered.num_lines + len(lines),
                )
    except OSError as error:
        raise errors.DataError(
            found=f"{path} cannot be read: {error.strerror}",
            expected="a file of result rows, as elm_eval writes it",
            do="Correct the permission, or name another file",
        ) from error
    if tail and (why := problem(tail)):
        json_files.tell_cut(path, why)
        tail = b""
    if tail:
        keep([_parse(tail, path, covered.num_lines + 1)])
    return covered, bool(tail)


def _parse(line: bytes, path: pathlib.Path, number: int) -> ResultRow:
    try:
        return _row(line.removesuffix(b"\n"))
    except ValueError as error:
        raise errors.DataError(
            found=f"line {number} of {path} is not a result row: {error}",
            expected="a JSON object with the fields of a result row",
            do="Remove the line, or name the right file",
        ) from error


def _row(line: bytes) -> ResultRow:
    """Returns the row of a line; raises ValueError that tells what is wrong."""
    content = json_files.parse(line)
    if problems := json_files.misfits(content, ResultRow, added_later=_WITH_DEFAULT):
        raise ValueError("; ".join(problems))
    try:
        return ResultRow(**content)
    except errors.DataError as error:
        raise ValueError(f"{error}") from error


def problem(line: bytes) -> str:
    """Returns what keeps a line from being a row, or ""."""
    try:
        _row(line)
    except ValueError as error:
        return f"{error}"
    return ""
