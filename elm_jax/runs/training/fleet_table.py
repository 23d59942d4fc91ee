"""What a fleet shows while it trains: one live table, or lines if not on a terminal."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from elm_jax.reporting import terminal
from elm_jax.training import writers

_COLUMNS = ("expert", "step", "loss", "rate", "steps/s", "time left")


class FleetTable:
    """The experts that train, as rows; a context.

    On a terminal the table is drawn again as numbers come in. Elsewhere each expert
    has the lines that it would have alone.

    Args:
      names: All experts that are to train.
      console: Standard error if None.
    """

    def __init__(self, names: Sequence[str], *, console: Console | None = None) -> None:
        self._console = console or terminal.console(stderr=True)
        self._waiting, self._total, self._landed = list(names), len(names), 0
        self._rows: dict[str, tuple[str, ...]] = {}
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=2,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def writer(self, name: str, *, num_steps: int) -> writers.MetricWriter:
        """Returns where the metrics of an expert that begins are to go."""
        self._waiting = [expert for expert in self._waiting if expert != name]
        self._rows = {**self._rows, name: ("-",) * (len(_COLUMNS) - 1)}
        if self._live is None:
            return writers.ConsoleWriter(name, num_steps=num_steps)
        return _Row(self, name, num_steps)

    def note_left(self, name: str) -> None:
        """Takes the row of an expert out."""
        self._rows = {
            expert: row for expert, row in self._rows.items() if expert != name
        }

    def note_landed(self, name: str) -> None:
        """Says that an expert is finished and saved."""
        self._landed += 1
        self._console.print(
            f"{name}: landed, {self._landed} of {self._total}",
            highlight=False,
            soft_wrap=True,
        )

    def show(self, name: str, cells: tuple[str, ...]) -> None:
        """Sets the row of an expert: its step, loss, rate, speed and time left."""
        self._rows = {**self._rows, name: cells}

    def render(self) -> Table:
        """Returns the table as it is now."""
        title = f"{self._landed} of {self._total} landed, {len(self._waiting)} waiting"
        rows = [(name, *cells) for name, cells in sorted(self._rows.items())]
        return terminal.table(title, _COLUMNS, rows)


class _Row:
    """Writes an expert's metrics into its row."""

    def __init__(self, table: FleetTable, name: str, num_steps: int) -> None:
        self._table, self._name, self._num_steps = table, name, num_steps

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._table.show(
            self._name,
            (
                f"{step}/{self._num_steps}",
                f"{scalars.get('loss', float('nan')):.4g}",
                f"{scalars.get('learning_rate', float('nan')):.3g}",
                f"{scalars.get('steps_per_sec', float('nan')):.3g}",
                writers.describe_secs(scalars.get("secs_left", 0.0)),
            ),
        )

    def close(self) -> None:
        """Does nothing; the row goes when the expert leaves."""
