"""Text on the terminal, shown as it is: a name such as `run[v2]` is no markup."""

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

_LOG_WIDTH = 120


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Passes the BrokenPipeError on, which rich would end the program for."""
        raise  # noqa: PLE0704 - called where it is caught


def console(*, stderr: bool = False) -> Console:
    """Returns a console that reads no markup and no emoji codes.

    A log file has no width of its own; it gets 120 characters.
    """
    made = _Console(stderr=stderr, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _LOG_WIDTH
    return made


def show(what: RenderableType) -> None:
    """Prints text, a table or a panel."""
    console().print(what)


def show_line(line: str) -> None:
    """Prints a line as it is, however long, in one colour."""
    console().print(line, soft_wrap=True, highlight=False)


def table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    show_header: bool = True,
) -> Table:
    """Returns a table; what is too long for its column goes on in the next line.

    Args:
      title: Above it.
      header: Names of the columns.
      rows: A cell for each column.
      show_header: Whether to show those names.
    """
    made = Table(title=title, show_header=show_header)
    for name in header:
        made.add_column(name, overflow="fold")  # rich's default cuts a long path
    for row in rows:
        made.add_row(*map(str, row))
    return made
