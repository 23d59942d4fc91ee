"""Where metrics go: a line on the console, a line of JSON, TensorBoard."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypedDict

from elm_jax import errors, fields
from elm_jax.disk import files, json_files

if TYPE_CHECKING:  # importing it takes a quarter of a second, most of it for S3
    from tensorboardX import event_file_writer

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_ON_CONSOLE = ("loss", "accuracy", "learning_rate")
_MUCH_WAITING = 0.02  # share of the time


class MetricWriter(Protocol):
    """Takes scalars by name; `close` may be called more than once."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class ConsoleWriter:
    """One line: step, loss, rates, the time left, and much waiting for data.

    Args:
      title: Of what trains.
      num_steps: At which the training is complete.
      stream: Standard error if None.
    """

    def __init__(
        self, title: str, *, num_steps: int, stream: TextIO | None = None
    ) -> None:
        self._title, self._num_steps, self._stream = title, num_steps, stream

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints those of the scalars that a line has room for."""
        parts = [f"{self._title}: step {step}/{self._num_steps}"]
        parts += [f"{n} {scalars[n]:.4g}" for n in _ON_CONSOLE if n in scalars]
        if "steps_per_sec" in scalars:
            parts.append(f"{scalars['steps_per_sec']:.3g} steps/s")
        if "tokens_per_sec" in scalars:
            parts.append(f"{scalars['tokens_per_sec']:,.0f} tokens/s")
        if "secs_left" in scalars:
            parts.append(f"{describe_secs(scalars['secs_left'])} left")
        if scalars.get("data_wait_share", 0.0) > _MUCH_WAITING:
            parts.append(f"waits for data {scalars['data_wait_share']:.0%} of the time")
        stream = self._stream or sys.stderr
        print(", ".join(parts), file=stream, flush=True)  # noqa: T201

    def close(self) -> None:
        """Does nothing."""


class JsonLinesWriter:
    """One JSON object a line: `{"step": 100, "loss": 2.5, ...}`.

    A run that goes on from a saved state drops the lines after that state, and a
    last line that a kill tore, so that no step is in it twice. Lines before it that
    cannot be read are left out, and standard error is told so.

    Args:
      path: Of the file; parents are made with the first line.
      start_step: Of the state the run goes on from, 0 at the beginning.
    """

    def __init__(self, path: str | pathlib.Path, *, start_step: int = 0) -> None:
        self._path, self._start_step = pathlib.Path(path), start_step
        self._file: TextIO | None = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a line.

        Raises:
          ConfigError: The file cannot be written.
        """
        line = json.dumps({"step": step, **scalars}) + "\n"
        with _explained(self._path):
            if self._file is None:
                files.write_bytes(self._path, self._read_kept_lines())
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Closes the file.

        Raises:
          ConfigError: What was left could not be written.
        """
        file, self._file = self._file, None
        if file is not None:
            with _explained(self._path):
                file.close()

    def _read_kept_lines(self) -> bytes:
        if self._start_step == 0 or not self._path.exists():
            return b""
        *whole, _ = self._path.read_bytes().split(b"\n")
        lines = []
        for number, line in enumerate(whole, 1):
            try:
                step = step_of(line)
            except ValueError as error:
                text = f"{self._path}: line {number} is left out: {error}"
                print(text, file=sys.stderr, flush=True)  # noqa: T201
                continue
            if step > self._start_step:
                break
            lines.append(line + b"\n")
        return b"".join(lines)


class _Row(TypedDict):
    step: fields.CountOrNone


def step_of(line: bytes) -> int:
    """Returns the step of a line of `JsonLinesWriter`; raises ValueError if damaged."""
    row = json_files.parse(line)
    if problems := json_files.misfits(row, _Row, known_only=True):
        raise ValueError("; ".join(problems))
    return row["step"]


class TensorBoardWriter:
    """TensorBoard event files, written without TensorFlow.

    Args:
      folder: Of the event files; made with the first scalar.
      start_step: Of the state the run goes on from; later points are hidden.
      config: Shown as a text beside the curves.
    """

    def __init__(
        self, folder: str | pathlib.Path, *, start_step: int = 0, config: str = ""
    ) -> None:
        self._folder, self._config = pathlib.Path(folder), config
        self._start_step = start_step
        self._writer: event_file_writer.EventsWriter | None = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each scalar's curve; it is on disk when this returns.

        Raises:
          ConfigError: The file cannot be written.
        """
        from tensorboardX import summary

        with _explained(self._folder):
            self._writer = self._writer or self._begin(step)
            for name, value in scalars.items():
                self._writer.write_event(
                    _event(step, summary=summary.scalar(name, value))
                )
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file.

        Raises:
          ConfigError: What was left could not be written.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            with _explained(self._folder):
                writer.close()

    def _begin(self, step: int) -> "event_file_writer.EventsWriter":
        from tensorboardX import event_file_writer, summary

        self._folder.mkdir(parents=True, exist_ok=True)
        # Not `SummaryWriter`: its thread writes later, and dies of a full disk alone.
        # The suffix is there, or a restart within the second would overwrite the file.
        writer = event_file_writer.EventsWriter(
            str(self._folder / "events"), f".from_{self._start_step}"
        )
        hides_later = {"session_log": {"status": "START"}}
        writer.write_event(_event(self._start_step + 1, **hides_later))
        if self._config:
            indented = self._config.replace("\n", "\n    ")  # verbatim in Markdown
            text = summary.text("config", f"    {indented}")
            writer.write_event(_event(step, summary=text))
        return writer


def _event(step: int, **content: Any) -> Any:
    """Returns an event of TensorBoard after a step, of this time."""
    from tensorboardX.proto import event_pb2

    # Its names are made when it is imported, where no type checker sees them.
    events: Any = event_pb2
    return events.Event(wall_time=time.time(), step=step, **content)


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.ConfigError(
            found=f"{path} cannot be written: {error}",
            expected="a folder with write permission and free space",
            do="Free space or correct the permission, then start again",
        ) from error


def describe_secs(secs: float) -> str:
    """Returns a time span in the two largest units that fit.

    >>> [describe_secs(secs) for secs in (4.2, 75, 7_260, 100_000)]
    ['4 s', '1 min 15 s', '2 h 1 min', '1 d 3 h']
    """
    secs_left = round(secs)
    parts = []
    for size, unit in _UNITS:
        count, secs_left = divmod(secs_left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join([*parts, f"{secs_left} s"][:2])
