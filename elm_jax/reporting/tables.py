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


def all_tables(one: report.Report) -> list[TextTable]:
    """Returns the tables of everything in a report but its curves."""
    found = [headline(one.headline)] if one.headline else []
    found += [figures(part) for part in one.figures]
    found += [heat_map(part) for part in one.heat_maps]
    found += [votes(one.votes)] if one.votes else []
    return found


def headline(one: report.Headline) -> TextTable:
    """Returns the main table, intervals below the means."""
    return TextTable(
        title=f"{one.title} (percent, with 95 % interval)",
        header=("", *_marked(one.columns, one.column_marks)),
        rows=tuple(
            (
                row.label,
                *(
                    text.interval(cell, letters=one.marks.get((row.label, j), ""))
                    for j, cell in enumerate(row.cells)
                ),
            )
            for row in one.rows
        ),
        strong=frozenset((i, j + 1) for i, j in one.strong),
        notes=one.legend,
    )


def figures(one: report.Figures) -> TextTable:
    """Returns a table of figures, intervals below them."""
    return TextTable(
        title=one.title,
        header=("", *one.columns),
        rows=tuple((name, *map(figure, own)) for name, own in one.rows),
        notes=one.notes,
    )


def figure(one: report.Figure) -> str:
    """Returns a figure as text, its interval on a second line."""
    if isinstance(one, str):
        return one
    if isinstance(one, report.Signed):
        return text.interval(one.value, signed=True)
    return text.interval(one) if isinstance(one, results.Interval) else text.number(one)


def heat_map(one: report.HeatMap) -> TextTable:
    """Returns experts x datasets, means over prompts.

    None is stressed: the best of many is best by luck, too.
    """
    named = [("base", one.baseline), *zip(one.experts, one.values, strict=True)]
    table = [
        (*one.by_dataset(values).values(), one.mean(values)) for _, values in named
    ]
    datasets = [*dict.fromkeys(dataset for dataset, _ in one.columns), "mean"]
    heads: dict[int, str] = {}
    letters: dict[tuple[str, int], str] = {}
    for place, (dataset, _) in enumerate(one.columns):
        for j in (datasets.index(dataset), len(datasets) - 1):
            heads[j] = marks.joined(heads.get(j, ""), one.column_marks.get(place, ""))
            for name, _ in named:
                own = letters.get((name, j), ""), one.marks.get((name, place), "")
                letters[name, j] = marks.joined(*own)
    for name, values in named:
        parts = [datasets.index(dataset) for dataset in one.parts(values)]
        for j in parts + [len(datasets) - 1] * one.is_part(values):
            letters[name, j] = marks.joined(letters.get((name, j), ""), marks.PART)
    return TextTable(
        title=f"{one.title} (percent, means over prompts)",
        header=("", *_marked(datasets, heads)),
        rows=tuple(
            (
                name,
                *(
                    marks.beside(text.number(value), letters.get((name, j), ""))
                    for j, value in enumerate(values)
                ),
            )
            for (name, _), values in zip(named, table, strict=True)
        ),
        notes=one.legend,
    )


def votes(some: tuple[report.Votes, ...]) -> TextTable:
    """Returns the three experts with the most votes of every task."""
    rows: list[tuple[str, ...]] = []
    for one in some:
        names = [f"{count} {name}" for name, count in one.counts[:3]]
        total = sum(count for _, count in one.counts)
        rows.append((one.task, *names, *[""] * (3 - len(names)), str(total)))
    header = ("", "most votes", "second", "third", "queries")
    return TextTable(title="Retrieval votes", header=header, rows=tuple(rows))


def claim_lines(claims: tuple[results.Claim, ...]) -> list[str]:
    """Returns one line per claim: its statement, its verdict, its numbers."""
    return [
        f"{text.plain(claim.title)}: {claim.verdict}. {text.plain(claim.evidence)}"
        for claim in claims
    ]


def to_rich(one: TextTable, *, width: int) -> Group:
    """Returns a table for the terminal and its notes; no name is read as markup.

    Long names are cut, unless two would look alike, and numbers never: columns for
    which a line has no room go to further tables below, which repeat the names of the
    rows.

    Args:
      one: The table.
      width: Characters in a line.
    """
    # Three of every column, and one of the line, are space.
    needs = [_width(one, j, title=_LEAST_TITLE) + 3 for j in range(len(one.header))]
    groups: list[list[int]] = []
    left = 0
    for j, need in enumerate(needs[1:], 1):
        if not groups or need > left:
            groups.append([])
            left = width - needs[0] - 1
        groups[-1].append(j)
        left -= need
    parts = [_rich_table(one, [0, *group], width=width) for group in groups or [[]]]
    for part in parts[1:]:
        part.title = Text(f"{text.plain(one.title)}, continued")
    return Group(*parts, *(Text(text.plain(note)) for note in one.notes))


def _width(one: TextTable, column: int, *, title: int) -> int:
    """Returns a column's width, with so many characters of its title at most."""
    lines = [line for row in one.rows for line in row[column].split("\n")]
    longest = max([len(line) for line in lines], default=0)
    most = _MOST_CELL if column else _most_name(lines)
    longest_title = max(map(len, one.header[column].split("\n")))
    return min(max(longest, min(longest_title, title)), most)


def _most_name(names: Sequence[str]) -> int:
    """Returns the length to which names are cut: none if two would look alike."""
    different = set(names)
    cut = {name[: _MOST_NAME - 1] for name in different if len(name) > _MOST_NAME}
    short = {name for name in different if len(name) <= _MOST_NAME}
    if len(cut) + len(short) == len(different):
        return _MOST_NAME
    return min(max(map(len, different)), _MOST_ALIKE)


def _rich_table(one: TextTable, columns: Sequence[int], *, width: int) -> Table:
    title = Text(text.plain(one.title))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    widths = [_width(one, j, title=_LEAST_TITLE) for j in columns]
    spare = width - 1 - sum(n + 3 for n in widths)
    for place, j in enumerate(columns):  # what is left goes to the titles
        more = _width(one, j, title=_MOST_CELL) - widths[place]
        widths[place] += max(0, min(more, spare))
        spare -= max(0, more)
        table.add_column(
            Text("\n".join(map(text.plain, one.header[j].split("\n")))),
            justify="right" if j else "left",
            no_wrap=True,  # a cut name is easier to read than a broken one
            width=widths[place],
        )
    for i, row in enumerate(one.rows):
        table.add_row(*(_rich_cell(row[j], (i, j) in one.strong) for j in columns))
    return table


def to_markdown(one: TextTable) -> str:
    r"""Returns a GitHub-flavoured Markdown table, below its title in bold.

    >>> print(to_markdown(TextTable("T", ("", "x|y"), (("a", "1.0"),))))
    **T**
    <BLANKLINE>
    |  | x\|y |
    |---|---:|
    | a | 1.0 |
    """
    lines = [f"**{_escape(one.title)}**", "", _line(map(_escape, one.header))]
    lines.append("|---|" + "---:|" * (len(one.header) - 1))
    for i, row in enumerate(one.rows):
        cells = (
            _markdown_cell(cell, (i, j) in one.strong) for j, cell in enumerate(row)
        )
        lines.append(_line(cells))
    for note in one.notes:
        lines += ["", _escape(note)]
    return "\n".join(lines)


def markdown(one: report.Report) -> str:
    """Returns the whole report, its curves aside, as Markdown."""
    parts = [f"# {_escape(one.title)}", _escape(one.summary)]
    parts += ["\n".join(f"- {_escape(line)}" for line in claim_lines(one.claims))]
    parts += [to_markdown(table) for table in all_tables(one)]
    parts += ["\n".join(f"- {_escape(note)}" for note in one.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(names: Iterable[str], letters: Mapping[int, str]) -> list[str]:
    """Returns titles of columns, letters in a line of their own: none is cut away."""
    found = []
    for j, name in enumerate(names):
        own = letters.get(j, "")
        plain = text.plain(name)
        found.append(f"{plain}\n({', '.join(own)})" if own else plain)
    return found


def _rich_cell(cell: str, is_strong: bool) -> Text:
    first, *more = cell.split("\n")
    found = Text(text.plain(first), style="bold" if is_strong else "")
    for line in more:
        found.append(f"\n{text.plain(line)}", style="not bold dim")
    return found


def _markdown_cell(cell: str, is_strong: bool) -> str:
    first, *more = map(_escape, cell.split("\n"))
    first = f"**{first}**" if is_strong else first
    return " ".join([first, *(f"({line})" for line in more)])


def _escape(name: str) -> str:
    """Returns text that Markdown shows as it is."""
    return re.sub(r"([\\`*|<>\[\]&#])", r"\\\1", text.plain(name))
