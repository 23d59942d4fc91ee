"""Result rows, the one form in which scores are kept, and the store that holds them."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.disk import files, json_files, locks

# A claim about a way to train is more than a claim about trainings from this many on.
LEAST_TRAININGS = 3

# Labels that stand in tables for a way to choose parameters, not for one expert.
STRATEGIES = (
    *("base", "multitask", "retrieved", "merged_top3"),
    *("best_single", "best_per_prompt", "oracle", "chance"),
    *("best_single_crossfit", "best_per_prompt_crossfit", "random_expert"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What a score is about: whose parameters, on which data, under which protocol.

    Attributes:
      expert: Name of the expert, or one of `STRATEGIES`.
      base_fingerprint: Fingerprint of the base model.
      expert_fingerprint: Fingerprint of the expert's training, or "" if nobody
        needs it. A retrained expert, or `retrieved` after the library grew, is
        scored again because this differs.
      task: Full name of the prompted task.
      dataset: The dataset the task belongs to; its prompts are averaged first.
      prompt: Name of the prompt within the dataset.
      split: Split of the dataset.
      protocol: How it is scored: whose rows, `elm` or `default`, and what else is not
        as usual, such as `elm+length_normalized`.
      seed: Seed of everything random in scoring, such as the choice of rows.
      checkpoint_step: Training steps behind the parameters.
      scoring: Hash of what else shapes a score: the rows scored and their content,
        length normalisation. "" if nobody needs it.
    """

    expert: str
    base_fingerprint: str
    expert_fingerprint: str = ""
    task: str
    dataset: str
    prompt: str
    split: str
    protocol: str
    seed: int
    checkpoint_step: int
    scoring: str = ""

    def key(self, metric: str) -> tuple[str | int, ...]:
        """Returns the identity of this cell's row for `metric`."""
        return (*(getattr(self, name) for name in _CELL_FIELDS), metric)

    @property
    def digest(self) -> str:
        """16 hex digits that name this cell in file names."""
        text = json.dumps([getattr(self, name) for name in _CELL_FIELDS])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# What numpy raises for a file that is none of its own.
_NO_ARRAYS = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile)
_CELL_FIELDS = tuple(field.name for field in dataclasses.fields(Cell))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a row tells of whose score it is and of the examples, for readers.

    None or "" where nobody told, as in files of earlier versions.

    Attributes:
      kind: The expert's kind, such as `prompt`, `multitask` or `merged`; `base` for
        the base, `strategy` for what chooses among experts.
      source: The expert's folder, relative to the store's; "" if it is none.
      training_seed: Seed of the expert's training.
      recipe: Hash of what the expert is trained on and how, its seed aside: equal for
        its trainings with several seeds.
      vocabulary: Fingerprint of the vocabulary of the tokens.
      data_fingerprint: Fingerprint of the tokens and texts that were scored.
      inputs_cut: Examples whose prompt was cut, in percent.
      undistinguished: Examples with choices that no model can tell apart, in percent.
      undistinguished_reasons: Number of these examples by reason.
      ties: Examples whose best score belongs to several answers, in percent.
      answers_cut: Written answers that had no end at the greatest length, in percent.
    """

    kind: str = ""
    source: str = ""
    training_seed: int | None = None
    recipe: str = ""
    vocabulary: str = ""
    data_fingerprint: str | None = None
    inputs_cut: float | None = None
    undistinguished: float | None = None
    undistinguished_reasons: Mapping[str, int] = dataclasses.field(
        default_factory=dict, hash=False
    )
    ties: float | None = None
    answers_cut: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultRow(Facts, Cell):
    """One score; a line of JSON in a result store. Facts are no part of its key.

    Attributes:
      run_id: The run that wrote the row.
      metric: Name of the metric.
      value: The score; percent in [0, 100] for every metric of `metrics.METRICS`.
      num_examples: Number of examples behind the value, at least 1.
      per_example_path: File of per-example values, relative to the store's
        folder, or None.
      per_example_sha256: Content hash of that file, or None.
    """

    run_id: str
    metric: str
    value: float
    num_examples: int
    per_example_path: str | None = None
    per_example_sha256: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.num_examples < 1:
            raise errors.DataError(
                found=f"{self.metric} = {self.value} over {self.num_examples}"
                f" examples, for {self.expert} on {self.task}",
                expected="a finite score over one or more examples",
                do="Check the split for examples and the expert's parameters",
            )

    @property
    def is_expert(self) -> bool:
        """Whether it is of an expert's own parameters, merged and multitask ones too.

        And so not of the base, nor of what chooses an expert for each task.
        """
        if self.kind:
            return self.kind not in ("base", "strategy")
        return self.expert not in STRATEGIES  # rows of release 0.1 tell no kind

    @property
    def is_single_expert(self) -> bool:
        """Whether it may be chosen as best single expert or oracle: of one training.

        Merged experts are a method's result, and multitask models the baseline.
        """
        return self.is_expert and self.kind not in ("multitask", "merged")

    def to_json(self) -> str:
        """Returns the row as one line of JSON, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)


_WITH_DEFAULT = tuple(
    field.name
    for field in dataclasses.fields(ResultRow)
    if field.default is not dataclasses.MISSING
    or field.default_factory is not dataclasses.MISSING
)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with an interval around it.

    Attributes:
      mean: The point estimate, in the unit of the scores.
      low: Lower end, or NaN where the data cannot tell.
      high: Upper end, or NaN where the data cannot tell.
      num_rows: Number of dataset rows behind it; 0 for a known constant.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    num_rows: int = 0

    def __format__(self, spec: str) -> str:
        """Formats every number by `spec`.

        >>> f"{Interval(61.25, 58.0, 64.5):.1f}"
        '61.2 [58.0, 64.5]'
        """
        mean = format(self.mean, spec)
        if math.isnan(self.low) or math.isnan(self.high):
            return mean
        return f"{mean} [{format(self.low, spec)}, {format(self.high, spec)}]"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about results, whether it holds, and the numbers behind it.

    Attributes:
      title: The statement, as one sentence.
      holds: True, False, or None where the data cannot decide.
      evidence: The numbers, in words.
      num_trainings: Training seeds behind it; None if it is not about trainings.
    """

    title: str
    holds: bool | None
    evidence: str
    num_trainings: int | None = None

    @property
    def verdict(self) -> str:
        """Whether it holds, in words: of how many trainings, if these are too few.

        >>> Claim("A beats B", True, "", num_trainings=1).verdict
        'holds in this training'
        >>> Claim("A beats B", False, "", num_trainings=2).verdict
        'does not hold in these 2 trainings'
        >>> Claim("A beats B", True, "", num_trainings=3).verdict
        'holds'
        """
        words = {True: "holds", False: "does not hold", None: "undecided"}[self.holds]
        number = self.num_trainings
        if self.holds is None or number is None or number >= LEAST_TRAININGS:
            return words
        of = "this training" if number == 1 else f"these {number} trainings"
        return f"{words} in {of}"


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
                    **{name: getattr(cell, name) for name in _CELL_FIELDS},
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
