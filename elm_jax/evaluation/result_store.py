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
from elm_jax.disk import locks
from elm_jax.evaluation import (
    per_example_files,
    per_example_reads,
    row_cache,
    row_columns,
    row_lines,
)
from elm_jax.evaluation.results import CELL_FIELDS, Cell, Facts, ResultRow
from elm_jax.evaluation.row_columns import RowColumns

_Key = tuple[str | int, ...]


class ResultStore:
    """A file of result rows that only grows, with per-example files beside it.

    A line is written by one call, so a killed run leaves at most one incomplete
    last line, which is dropped; every other malformed line is an error. The first
    row of a key stands. A strategy that chose something else meanwhile, or from another
    library, may have one more row of a key, of the same value: its newest row counts.
    Several processes may write and read a store: each locks the file while it appends.

    Args:
      path: The `.jsonl` file; made, with its folder, by the first row.

    Raises:
      DataError: A complete line of the file is not a result row.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        # In order; what was added last is in columns as soon as somebody reads it.
        self._parts: list[RowColumns] = []
        self._added: list[ResultRow] = []
        # Scores by the keys of all rows; made when somebody adds or asks for one.
        self._scores: dict[_Key, float] | None = None
        # Likewise, of the newest row of each strategy's place: its key and library.
        self._newest: dict[tuple[object, ...], tuple[_Key, str]] = {}
        # Ends of the records that rows name, by path; once somebody records.
        self._ends: dict[str, int] | None = None
        self._records = per_example_files.Records(self.path)
        cached = row_cache.load(self.path)
        self._parts.append(cached.rows)
        # Of the file, read so far up to the end of a line.
        self._read = cached._replace(rows=row_columns.EMPTY)
        has_tail = self._read_on()
        self._is_exact = not has_tail  # whether these lines are those of all rows
        self._scores = None  # most readers of a large store do not need it
        self._keep_rows_if_many(cached.num_bytes)

    def rows(self) -> RowColumns:
        """Returns all rows in the order in which they were written."""
        if self._added:
            self._pack()
        if len(self._parts) > 1:
            parts = [part for part in self._parts if len(part)]
            self._parts = [row_columns.joined(parts).packed()]
        return self._parts[0]

    def has(self, cell: Cell, metric: str) -> bool:
        """Returns whether the store holds the cell's row for the metric."""
        return cell.key(metric) in self._read_scores()

    def missing(self, cells: Iterable[Cell], metrics: Sequence[str]) -> list[Cell]:
        """Returns the cells that lack a row for one of the metrics, in order."""
        return [c for c in cells if not all(self.has(c, m) for m in metrics)]

    def append(self, *rows: ResultRow) -> None:
        """Adds rows; a row that is there already, with its value, is left out.

        Be it that another process has added it a moment ago. A strategy's is added
        again if it is not the newest of its place.

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
        scores = self._read_scores()
        for row in rows:
            if not self._is_kept(row):
                scores.setdefault(row.key(row.metric), row.value)
                self._note_newest(row)
                self._added.append(row)
        if len(self._added) >= row_lines.ROWS_AT_ONCE:
            self._pack()
        if self._ends is not None:
            _note_ends(self._ends, row_columns.of(rows))

    def _pack(self) -> None:
        self._parts.append(row_columns.of(self._added).packed())
        self._added = []

    def _read_scores(self) -> dict[_Key, float]:
        if self._scores is None:
            rows = self.rows()
            names = (*CELL_FIELDS, "metric")
            keys = [*zip(*(rows.coded(name).listed() for name in names), strict=True)]
            scores = rows.coded("value").listed()
            self._scores = dict(zip(keys, scores, strict=True))
            for row in rows.take(row_columns.roles(rows).are("strategy".__eq__)):
                self._note_newest(row)
        return self._scores

    def _note_newest(self, row: ResultRow) -> None:
        if (place := row.strategy_place) is not None:
            self._newest[place] = (row.key(row.metric), row.library)

    def _is_kept(self, row: ResultRow) -> bool:
        """Returns whether a row tells nothing new, or another value of a key."""
        key, place = row.key(row.metric), row.strategy_place
        if key not in self._read_scores():
            return False
        is_newest = place is None or self._newest.get(place) == (key, row.library)
        return is_newest or self._read_scores()[key] != row.value

    def _read_others(self, file: io.FileIO) -> None:
        """Reads the rows that other processes have added since the last read."""
        _mend(file)
        num_bytes = file.seek(0, os.SEEK_END)
        if num_bytes < self._read.num_bytes:  # somebody has made it anew
            self._read, self._is_exact = row_cache.NOTHING, False
        elif num_bytes == self._read.num_bytes:
            return
        self._read_on()

    def _read_on(self) -> bool:
        """Reads the lines that were not read yet.

        Returns:
          Whether the last one has no end.
        """
        self._read, has_tail = row_lines.read(
            self.path, start=self._read, keep=self._keep
        )
        return has_tail

    def _select_new(self, rows: Iterable[ResultRow]) -> list[ResultRow]:
        new: dict[tuple[object, ...], ResultRow] = {}
        scores, new_scores = self._read_scores(), dict[_Key, float]()
        for row in rows:
            key = row.key(row.metric)
            old = scores.get(key, new_scores.setdefault(key, row.value))
            if old == row.value:
                if not self._is_kept(row):
                    new[(key, row.strategy_place, row.library)] = row
            else:
                raise errors.DataError(
                    found=f"{row.metric} of {row.expert} on {row.task} is"
                    f" {row.value}, and {old} in {self.path}",
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
                    _note_ends(self._ends, self.rows())
                place = self._records.append(cell, per_example, self._ends)
                new = [dataclasses.replace(row, **place._asdict()) for row in new]
            self._add(file, new)

    def finish(self) -> None:
        """Writes the cache by which the file opens fast, if many rows were added."""
        self._keep_rows_if_many(0)

    def _keep_rows_if_many(self, num_kept: int) -> None:
        if self._is_exact and self._read.num_bytes - num_kept >= row_cache.LEAST_BYTES:
            row_cache.save(self.path, self._read._replace(rows=self.rows()))

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
            raise _no_values(row)
        return per_example_files.read(self.path, row, only)

    def per_examples(
        self, rows: RowColumns, *, only: Sequence[str]
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields what `per_example` returns for each of many rows, much faster.

        Args:
          rows: Some that the store has.
          only: Names of the arrays that are asked for, of numbers.

        Raises:
          DataError: A row names no file, or the file is missing or altered.
        """
        lacking = rows.where(per_example_path=None)
        if len(lacking):
            raise _no_values(lacking[0])
        return per_example_reads.read(self.path, rows, only)


def _no_values(row: ResultRow) -> errors.DataError:
    return errors.DataError(
        found=f"no per-example file for {row.expert} on {row.task}",
        expected="one, because intervals resample examples",
        do="Score it again with per-example values",
    )


def _note_ends(ends: dict[str, int], rows: RowColumns) -> None:
    names = ("per_example_path", "per_example_offset", "per_example_length")
    columns = [rows.coded(name).listed() for name in names]
    for path, offset, length in zip(*columns, strict=True):
        if offset is not None:
            end = offset + (length or 0)
            ends[path or ""] = max(end, ends.get(path or "", 0))


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
    """Ends a file with a whole line, as `row_lines.read` understands it."""
    size = file.seek(0, os.SEEK_END)
    if not size or os.pread(file.fileno(), 1, size - 1) == b"\n":
        return
    file.seek(0)
    tail = file.readall().rpartition(b"\n")[2]
    if row_lines.problem(tail):
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
