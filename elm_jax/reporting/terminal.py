"""Prints text to the terminal exactly as it is: `run[v2]` in a name is not markup.

Control characters are shown as U+FFFD, so that no text can be a terminal command.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from elm_jax import printing

_LOG_WIDTH = 120


class _Console(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yields what rich will print, with control characters in texts replaced."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printing.replaced(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError again; rich itself would end the program."""
        raise  # noqa: PLE0704 - called where it is caught


def console(*, stderr: bool = False) -> Console:
    """Returns a console that reads no markup and no emoji codes.

    A log file has no width of its own; it gets 120 characters.
    """
    stream = printing.unescaped(sys.stderr if stderr else sys.stdout)
    new_console = _Console(file=stream, stderr=stderr, markup=False, emoji=False)
    if not new_console.is_terminal:
        new_console.width = _LOG_WIDTH
    return new_console


def show(renderable: RenderableType) -> None:
    """Prints text, a table or a panel."""
    console().print(renderable)


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
    """Returns a table; long cells continue on the next line.

    Args:
      title: Above it.
      header: Names of the columns.
      rows: A cell for each column.
      show_header: Whether to show those names.
    """
    new_table = Table(title=title, show_header=show_header)
    for name in header:
        new_table.add_column(name, overflow="fold")  # rich's default cuts a long path
    for row in rows:
        new_table.add_row(*map(str, row))
    return new_table
