"""A report as tables of text: for the terminal, and as Markdown."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from elm_jax.evaluation import results
from elm_jax.reporting import marks, report, text

# Characters of names of rows, of cells, and of titles that are not cut further.
_MOST_NAME, _MOST_CELL, _LEAST_TITLE = 28, 22, 12
_MOST_ALIKE = 44  # characters of names that begin alike
# A terminal shows so many rows of a table, else so many of its first and last ones.
_MOST_ROWS, _SHOWN_ROWS = 40, 10


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of plain text.

    Attributes:
      title: Shown above it.
      header: Names of the columns, with letters of `marks` in a second line; the first
        is of names, the others of numbers.
      rows: Rows with as many cells as the header; a second line of a cell says more
        about the first.
      strong: (row, column) of the cells to stress.
      notes: Shown below it, a sentence each.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()


def all_tables(shown: report.Report) -> list[TextTable]:
    """Returns the tables of a report; curves have none."""
    tables = [headline(shown.headline)] if shown.headline else []
    tables += [figures(part) for part in shown.figures]
    tables += [heat_map(part) for part in shown.heat_maps]
    tables += [votes(shown.votes)] if shown.votes else []
    return tables


def headline(shown: report.Headline) -> TextTable:
    """Returns the main table, intervals below the means."""
    return TextTable(
        title=f"{shown.title} (percent, with 95 % interval)",
        header=("", *_marked(shown.columns, shown.column_marks)),
        rows=tuple(
            (
                row.label,
                *(
                    text.interval(cell, letters=shown.marks.get((row.label, j), ""))
                    for j, cell in enumerate(row.cells)
                ),
            )
            for row in shown.rows
        ),
        strong=frozenset((i, j + 1) for i, j in shown.strong),
        notes=shown.legend,
    )


def figures(shown: report.Figures) -> TextTable:
    """Returns a table of figures, intervals below them."""
    return TextTable(
        title=shown.title,
        header=("", *shown.columns),
        rows=tuple((name, *map(figure, values)) for name, values in shown.rows),
        notes=shown.notes,
    )


def figure(value: report.Figure) -> str:
    """Returns a figure as text, its interval on a second line."""
    if isinstance(value, str):
        return value
    if isinstance(value, report.Signed):
        return text.interval(value.value, signed=True)
    return (
        text.interval(value)
        if isinstance(value, results.Interval)
        else text.number(value)
    )


def heat_map(shown: report.HeatMap) -> TextTable:
    """Returns experts x datasets, means over prompts.

    No value is bold: the best of many is partly best by luck.
    """
    lines = [("base", shown.baseline), *zip(shown.experts, shown.values, strict=True)]
    table = [
        (*shown.by_dataset(values).values(), shown.mean(values)) for _, values in lines
    ]
    datasets = [*dict.fromkeys(dataset for dataset, _ in shown.columns), "mean"]
    heads: dict[int, str] = {}
    for place, (dataset, _) in enumerate(shown.columns):
        for j in (datasets.index(dataset), len(datasets) - 1):
            heads[j] = marks.joined(heads.get(j, ""), shown.column_marks.get(place, ""))
    mean_letters = shown.mean_letters()
    letters = {
        (name, j): mean_letters.get((name, dataset), "")
        for name, _ in lines
        for j, dataset in enumerate([*datasets[:-1], ""])
    }
    return TextTable(
        title=f"{shown.title} (percent, means over prompts)",
        header=("", *_marked(datasets, heads)),
        rows=tuple(
            (
                name,
                *(
                    marks.beside(text.number(value), letters.get((name, j), ""))
                    for j, value in enumerate(values)
                ),
            )
            for (name, _), values in zip(lines, table, strict=True)
        ),
        notes=shown.legend,
    )


def shortened(table: TextTable, *, rest: str) -> TextTable:
    """Returns a table for a terminal: of many rows the first and the last ten.

    Args:
      table: Its first row stays, too, which is that of the base.
      rest: Where all rows are.
    """
    if len(table.rows) <= _MOST_ROWS:
        return table
    first, last = table.rows[: _SHOWN_ROWS + 1], table.rows[-_SHOWN_ROWS:]
    left_out = len(table.rows) - len(first) - len(last)
    gap = (f"… {left_out} more", *[""] * (len(table.header) - 1))
    strong = {
        (i if i < len(first) else i - left_out + 1, j)
        for i, j in table.strong
        if i < len(first) or i >= len(table.rows) - len(last)
    }
    note = f"{left_out} of {len(table.rows)} rows are not shown; all are in {rest}."
    return dataclasses.replace(
        table,
        rows=(*first, gap, *last),
        strong=frozenset(strong),
        notes=(note, *table.notes),
    )


def votes(shown: tuple[report.Votes, ...]) -> TextTable:
    """Returns the three experts with the most votes of every task."""
    rows: list[tuple[str, ...]] = []
    for task_votes in shown:
        names = [f"{count} {name}" for name, count in task_votes.counts[:3]]
        total = sum(count for _, count in task_votes.counts)
        rows.append((task_votes.task, *names, *[""] * (3 - len(names)), str(total)))
    header = ("", "most votes", "second", "third", "queries")
    return TextTable(title="Retrieval votes", header=header, rows=tuple(rows))


def claim_lines(claims: tuple[results.Claim, ...]) -> list[str]:
    """Returns one line per claim: its statement, its verdict, its numbers."""
    return [
        f"{text.plain(claim.title)}: {claim.verdict}. {text.plain(claim.evidence)}"
        for claim in claims
    ]


def to_rich(table: TextTable, *, width: int) -> Group:
    """Returns a table for the terminal and its notes; no name is read as markup.

    Long names are cut, unless two would look alike. Numbers are never cut: columns for
    which a line has no room go to further tables below, which repeat the row names.

    Args:
      table: The table.
      width: Characters in a line.
    """
    # Each column has three characters of space, and the line one.
    needs = [_width(table, j, title=_LEAST_TITLE) + 3 for j in range(len(table.header))]
    groups: list[list[int]] = []
    room = 0
    for j, need in enumerate(needs[1:], 1):
        if not groups or need > room:
            groups.append([])
            room = width - needs[0] - 1
        groups[-1].append(j)
        room -= need
    parts = [_rich_table(table, [0, *group], width=width) for group in groups or [[]]]
    for part in parts[1:]:
        part.title = Text(f"{text.plain(table.title)}, continued")
    return Group(*parts, *(Text(text.plain(note)) for note in table.notes))


def _width(table: TextTable, column: int, *, title: int) -> int:
    """Returns a column's width; `title` limits how much of its title counts."""
    lines = [line for row in table.rows for line in row[column].split("\n")]
    longest = max([len(line) for line in lines], default=0)
    most = _MOST_CELL if column else _most_name(lines)
    longest_title = max(map(len, table.header[column].split("\n")))
    return min(max(longest, min(longest_title, title)), most)


def _most_name(names: Sequence[str]) -> int:
    """Returns the length to which names are cut, greater if two would look alike."""
    different = set(names)
    cut = {name[: _MOST_NAME - 1] for name in different if len(name) > _MOST_NAME}
    short = {name for name in different if len(name) <= _MOST_NAME}
    if len(cut) + len(short) == len(different):
        return _MOST_NAME
    return min(max(map(len, different)), _MOST_ALIKE)


def _rich_table(content: TextTable, columns: Sequence[int], *, width: int) -> Table:
    title = Text(text.plain(content.title))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    widths = [_width(content, j, title=_LEAST_TITLE) for j in columns]
    spare = width - 1 - sum(n + 3 for n in widths)
    for place, j in enumerate(columns):  # the space that is left goes to the titles
        more = _width(content, j, title=_MOST_CELL) - widths[place]
        widths[place] += max(0, min(more, spare))
        spare -= max(0, more)
        table.add_column(
            Text("\n".join(map(text.plain, content.header[j].split("\n")))),
            justify="right" if j else "left",
            no_wrap=True,  # a cut name is easier to read than a broken one
            width=widths[place],
        )
    for i, row in enumerate(content.rows):
        table.add_row(*(_rich_cell(row[j], (i, j) in content.strong) for j in columns))
    return table


def to_markdown(table: TextTable) -> str:
    r"""Returns a GitHub-flavoured Markdown table, below its title in bold.

    >>> print(to_markdown(TextTable("T", ("", "x|y"), (("a", "1.0"),))))
    **T**
    <BLANKLINE>
    |  | x\|y |
    |---|---:|
    | a | 1.0 |
    """
    lines = [f"**{escape(table.title)}**", "", _line(map(escape, table.header))]
    lines.append("|---|" + "---:|" * (len(table.header) - 1))
    for i, row in enumerate(table.rows):
        cells = (
            _markdown_cell(cell, (i, j) in table.strong) for j, cell in enumerate(row)
        )
        lines.append(_line(cells))
    for note in table.notes:
        lines += ["", escape(note)]
    return "\n".join(lines)


def markdown(shown: report.Report) -> str:
    """Returns the whole report, without its curves, as Markdown."""
    parts = [f"# {escape(shown.title)}", escape(shown.summary)]
    parts += ["\n".join(f"- {escape(line)}" for line in claim_lines(shown.claims))]
    parts += [to_markdown(table) for table in all_tables(shown)]
    parts += ["\n".join(f"- {escape(note)}" for note in shown.notes)]
    if shown.cards:
        links = shown.cards.items()
        parts.append("**Cards of experts**")
        parts.append(
            "\n".join(f"- [{escape(name)}]({address})" for name, address in links)
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(names: Iterable[str], letters: Mapping[int, str]) -> list[str]:
    """Returns column titles with letters on a second line, so that none is cut off."""
    titles = []
    for j, name in enumerate(names):
        letters_of_column = letters.get(j, "")
        plain = text.plain(name)
        titles.append(
            f"{plain}\n({', '.join(letters_of_column)})" if letters_of_column else plain
        )
    return titles


def _rich_cell(cell: str, is_strong: bool) -> Text:
    first, *more = cell.split("\n")
    cell_text = Text(text.plain(first), style="bold" if is_strong else "")
    for line in more:
        cell_text.append(f"\n{text.plain(line)}", style="not bold dim")
    return cell_text


def _markdown_cell(cell: str, is_strong: bool) -> str:
    first, *more = map(escape, cell.split("\n"))
    first = f"**{first}**" if is_strong else first
    return " ".join([first, *(f"({line})" for line in more)])


def escape(name: str) -> str:
    """Returns text that Markdown shows as it is."""
    return re.sub(r"([\\`*|<>\[\]&#])", r"\\\1", text.plain(name))
