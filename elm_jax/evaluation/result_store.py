"""The store of result rows: a file that only grows, and files of values beside it."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.disk import files, json_files, locks
from elm_jax.evaluation.results import CELL_FIELDS, Cell, Facts, ResultRow

# What numpy raises for a file that is none of its own.
_NO_ARRAYS = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile)

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
        self._num_bytes = _end_of_lines(self.path)  # of the file, read so far
        self._keep(read_rows(self.path))

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
        if not self._select_new(rows):
            return
        with _writing(self.path) as file:
            self._read_others(file)
            new = self._select_new(rows)
            lines = "".join(f"{row.to_json()}\n" for row in new)
            _append(file, lines.encode())
            self._num_bytes = file.tell()
        self._keep(new)

    def _keep(self, rows: Iterable[ResultRow]) -> None:
        for row in rows:
            self._rows.setdefault(row.key(row.metric), row)

    def _read_others(self, file: io.FileIO) -> None:
        """Reads the rows that other processes have added since this one has looked."""
        _mend(file)
        num_bytes = file.seek(0, os.SEEK_END)
        if num_bytes == self._num_bytes:
            return
        file.seek(self._num_bytes if num_bytes > self._num_bytes else 0)
        try:
            self._keep([_row(line) for line in file.readall().splitlines()])
        except ValueError:
            self._keep(read_rows(self.path))  # which says what is wrong in which line

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
          per_example: Arrays by name: `example_ids` int64 [num_examples], one
            array [num_examples] for each metric that is a mean over examples, and
            whatever else explains them. None writes no file.
          facts: What all these rows tell of the expert and the examples.

        Raises:
          ConfigError: A file cannot be written.
        """
        path = digest = None
        if per_example is not None:
            path = f"per_example/{cell.digest[:2]}/{cell.digest}.npz"
            content = _to_npz(per_example)
            digest = hashlib.sha256(content).hexdigest()
            # The file goes first: a row never names a file that is not there.
            files.write_bytes(self.path.parent / path, content)
        self.append(
            *(
                ResultRow(
                    **{name: getattr(cell, name) for name in CELL_FIELDS},
                    **dataclasses.asdict(facts or Facts()),
                    run_id=run_id,
                    metric=metric,
                    value=float(value),
                    num_examples=num_examples,
                    per_example_path=path,
                    per_example_sha256=digest,
                )
                for metric, value in values.items()
            )
        )

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
        where = f"{row.expert} on {row.task}"
        if row.per_example_path is None:
            raise errors.DataError(
                found=f"no per-example file for {where}",
                expected="one, because intervals resample examples",
                do="Score it again with per-example values",
            )
        path = self.path.parent / row.per_example_path
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != row.per_example_sha256:
            raise errors.DataError(
                found=f"{path} is {'altered' if content else 'missing'} ({where})",
                expected=f"the file with SHA-256 {row.per_example_sha256}",
                do=f"Remove the row from {self.path} and score it again",
            )
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                names = [n for n in arrays.files if not only or n in only]
                return {name: arrays[name] for name in names}
        except _NO_ARRAYS as error:
            raise errors.DataError(
                found=f"{path} is no file of arrays: {error} ({where})",
                expected="per-example values, as elm_eval writes them",
                do=f"Remove the row from {self.path} and score it again",
            ) from error


def read_rows(path: str | pathlib.Path) -> list[ResultRow]:
    """Returns the rows of a file, or none if there is no file; see `ResultStore`."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise errors.DataError(
            found=f"{path} cannot be read: {error.strerror}",
            expected="a file of result rows, as elm_eval writes it",
            do="Correct the permission, or name another file",
        ) from error
    if tail and (problem := _problem(tail)):
        json_files.tell_cut(path, problem)
        tail = b""
    complete = [*lines, tail] if tail else lines
    return [_parse(line, path=path, number=i) for i, line in enumerate(complete, 1)]


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


def _end_of_lines(path: pathlib.Path) -> int:
    """Returns the size of a file that ends with a whole line, else 0."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            last = os.pread(file.fileno(), 1, size - 1) if size else b""
    except OSError:  # there is none yet, or `read_rows` says why it cannot be read
        return 0
    return size if last == b"\n" else 0


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


def _to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    # Not compressed: the bytes, and so the hash, must not depend on zlib's version.
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
