"""The store of result rows: a file that only grows, and files of values beside it."""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.disk import json_files, locks
from elm_jax.evaluation import per_example_files, row_cache
from elm_jax.evaluation.results import CELL_FIELDS, Cell, Facts, ResultRow

_WITH_DEFAULT = tuple(
    field.name
    for field in dataclasses.fields(ResultRow)
    if field.default is not dataclasses.MISSING
    or field.default_factory is not dataclasses.MISSING
)


class ResultStore:
    """A file of result rows that only grows, with per-example files beside it.

    A line is written by one call, so a killed run leaves at most one incomplete
    last line, which is dropped; every other malformed line is an error. The first
    row of a key stands. Several processes may write and read a store: each locks the
    file while it appends.

    Args:
      path: The `.jsonl` file; made, with its folder, by the first row.

    Raises:
      DataError: A complete line of the file is not a result row.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        self._rows: dict[tuple[str | int, ...], ResultRow] = {}
        # Ends of the records that rows name, by path; once somebody records.
        self._ends: dict[str, int] | None = None
        self._records = per_example_files.Records(self.path)
        kept = row_cache.load(self.path)
        with row_cache.without_collector():
            self._keep(kept.rows)
            new = _read(self.path, after=kept)
            self._keep(new.rows)
        # Of the file, read so far up to the end of a line.
        self._read = new._replace(rows=[])
        has_tail = len(new.rows) > new.num_lines - kept.num_lines
        self._is_exact = not has_tail  # whether these lines are those of all rows
        self._keep_rows_if_many(kept.num_bytes)

    def rows(self) -> tuple[ResultRow, ...]:
        """Returns all rows in the order in which they were written."""
        return tuple(self._rows.values())

    def has(self, cell: Cell, metric: str) -> bool:
        """Returns whether the store holds the cell's row for the metric."""
        return cell.key(metric) in self._rows

    def missing(self, cells: Iterable[Cell], metrics: Sequence[str]) -> list[Cell]:
        """Returns the cells that lack a row for one of the metrics, in order."""
        return [c for c in cells if not all(self.has(c, m) for m in metrics)]

    def append(self, *rows: ResultRow) -> None:
        """Adds rows; a row that is there already, with its value, is left out.

        Be it that another process has added it a moment ago.

        Raises:
          DataError: A row of the same key has another value.
          ConfigError: The file cannot be written.
        """
        if self._select_new(rows):
            with _writing(self.path) as file:
                self._read_others(file)
                self._add(file, self._select_new(rows))

    def _add(self, file: io.FileIO, new: Sequence[ResultRow]) -> None:
        """Appends rows that are not there to the locked file."""
        lines = "".join(f"{row.to_json()}\n" for row in new).encode()
        _append(file, lines)
        self._read.hash.update(lines)
        self._read = self._read._replace(
            num_bytes=file.tell(), num_lines=self._read.num_lines + len(new)
        )
        self._keep(new)

    def _keep(self, rows: Sequence[ResultRow]) -> None:
        for row in rows:
            self._rows.setdefault(row.key(row.metric), row)
        if self._ends is not None:
            _note_ends(self._ends, rows)

    def _read_others(self, file: io.FileIO) -> None:
        """Reads the rows that other processes have added since this one has looked."""
        _mend(file)
        num_bytes = file.seek(0, os.SEEK_END)
        if num_bytes < self._read.num_bytes:  # somebody has made it anew
            self._read, self._is_exact = row_cache.NOTHING, False
        elif num_bytes == self._read.num_bytes:
            return
        new = _read(self.path, after=self._read)
        self._keep(new.rows)
        self._read = new._replace(rows=[])

    def _select_new(self, rows: Iterable[ResultRow]) -> list[ResultRow]:
        new: dict[tuple[str | int, ...], ResultRow] = {}
        for row in rows:
            old = self._rows.get(row.key(row.metric))
            if old is None:
                new[row.key(row.metric)] = row
            elif old.value != row.value:
                raise errors.DataError(
                    found=f"{row.metric} of {row.expert} on {row.task} is"
                    f" {row.value}, and {old.value} in {self.path}",
                    expected="one value per cell and metric",
                    do="Write to another result file, or give the parameters"
                    " another expert_fingerprint",
                )
        return list(new.values())

    def record(
        self,
        cell: Cell,
        *,
        run_id: str,
        values: Mapping[str, float],
        num_examples: int,
        per_example: Mapping[str, np.ndarray] | None = None,
        facts: Facts | None = None,
    ) -> None:
        """Adds one row per metric, and the per-example file they share.

        Args:
          cell: What was scored.
          run_id: The run that scored it.
          values: Score by metric.
          num_examples: Number of examples scored.
          per_example: Arrays by name, of one dimension: `example_ids` int64
            [num_examples], one array [num_examples] for each metric that is a mean over
            examples, and whatever else explains them. None writes no record.
          facts: What all these rows tell of the expert and the examples.

        Raises:
          DataError: A row of the same key has another value.
          ConfigError: A file cannot be written.
        """
        digest = per_example_files.values_hash(per_example) if per_example else None
        rows = [
            ResultRow(
                **{name: getattr(cell, name) for name in CELL_FIELDS},
                **dataclasses.asdict(facts or Facts()),
                run_id=run_id,
                metric=metric,
                value=float(value),
                num_examples=num_examples,
                per_example_sha256=digest,
            )
            for metric, value in values.items()
        ]
        if not self._select_new(rows):
            return
        with _writing(self.path) as file:
            self._read_others(file)
            new = self._select_new(rows)
            if new and per_example is not None:
                # First the record: a row never names one that is not there.
                if self._ends is None:
                    self._ends = {}
                    _note_ends(self._ends, self._rows.values())
                place = self._records.append(cell, per_example, self._ends)
                new = [dataclasses.replace(row, **place._asdict()) for row in new]
            self._add(file, new)

    def finish(self) -> None:
        """Sees to it that the file opens fast, when many rows were added."""
        self._keep_rows_if_many(0)

    def _keep_rows_if_many(self, num_kept: int) -> None:
        if self._is_exact and self._read.num_bytes - num_kept >= row_cache.LEAST_BYTES:
            rows = [*self._rows.values()]
            row_cache.save(self.path, self._read._replace(rows=rows))

    def per_example(
        self, row: ResultRow, *, only: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a row's per-example file.

        Args:
          row: One that the store has.
          only: Names of those that are asked for, as far as they are there; all by
            default.

        Raises:
          DataError: The row names no file, or the file is missing or altered.
        """
        if row.per_example_path is None:
            raise errors.DataError(
                found=f"no per-example file for {row.expert} on {row.task}",
                expected="one, because intervals resample examples",
                do="Score it again with per-example values",
            )
        return per_example_files.read(self.path, row, only)


def _note_ends(ends: dict[str, int], rows: Iterable[ResultRow]) -> None:
    for row in rows:
        if row.per_example_offset is not None:
            path = row.per_example_path or ""
            end = row.per_example_offset + (row.per_example_length or 0)
            ends[path] = max(end, ends.get(path, 0))


def read_rows(path: str | pathlib.Path) -> list[ResultRow]:
    """Returns the rows of a file, or none if there is no file; see `ResultStore`."""
    with row_cache.without_collector():
        return _read(pathlib.Path(path), after=row_cache.NOTHING).rows


def _read(path: pathlib.Path, *, after: row_cache.Covered) -> row_cache.Covered:
    """Returns the rows of the lines after some, and where the last whole line ends."""
    if not path.exists():
        return row_cache.NOTHING._replace(hash=row_cache.NOTHING.hash.copy())
    try:
        with path.open("rb") as file:
            file.seek(after.num_bytes)
            content = file.read()
    except OSError as error:
        raise errors.DataError(
            found=f"{path} cannot be read: {error.strerror}",
            expected="a file of result rows, as elm_eval writes it",
            do="Correct the permission, or name another file",
        ) from error
    *lines, tail = content.split(b"\n")
    read = len(content) - len(tail)
    covers = after.hash.copy()
    covers.update(memoryview(content)[:read])
    if tail and (problem := _problem(tail)):
        json_files.tell_cut(path, problem)
        tail = b""
    complete = [*lines, tail] if tail else lines
    first = after.num_lines + 1
    rows = [_parse(line, path=path, number=i) for i, line in enumerate(complete, first)]
    return row_cache.Covered(
        rows, after.num_bytes + read, after.num_lines + len(lines), covers
    )


def _parse(line: bytes, *, path: pathlib.Path, number: int) -> ResultRow:
    try:
        return _row(line)
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


def _problem(line: bytes) -> str:
    """Returns what keeps a line from being a row, or ""."""
    try:
        _row(line)
    except ValueError as error:
        return f"{error}"
    return ""


def _append(file: io.FileIO, content: bytes) -> None:
    """Appends all of `content` to a file of whole lines, or nothing."""
    start = file.seek(0, os.SEEK_END)
    try:
        if file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(start)
        raise


def _mend(file: io.FileIO) -> None:
    """Ends a file with a whole line, as `read_rows` understands it."""
    size = file.seek(0, os.SEEK_END)
    if not size or os.pread(file.fileno(), 1, size - 1) == b"\n":
        return
    file.seek(0)
    tail = file.readall().rpartition(b"\n")[2]
    if _problem(tail):
        file.truncate(size - len(tail))
    else:
        file.write(b"\n")


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[io.FileIO]:
    """Opens and locks a file for appending, unbuffered; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            locks.take(file.fileno(), of=path)
            yield file
    except OSError as error:
        raise errors.ConfigError(
            found=f"{path} cannot be written: {error.strerror or error}",
            expected="a file with write permission and free space",
            do="Free space, correct the permission or choose another folder",
        ) from error
