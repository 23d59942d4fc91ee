"""Experts x tasks as a table of a page: coloured cells, and the values behind them.

Before the prompts of a dataset stands the mean over them, to which a reader folds the
dataset. A map of 296 experts and 113 prompts has 38,000 cells; so their HTML is joined
here, a row at a time, and not by the template.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from elm_jax.reporting import csv_tables, embedded, marks, report, text

SHADES = 20  # steps of colour from none to full
# The full colour means at least this many points from the base model, so that a map of
# small differences stays pale.
_LEAST_COLOUR_RANGE = 10.0
MOST_CELLS = 60_000
"""Of a map on a page: 480 experts on 113 prompts. Of more, those with the lowest means
are left out, as each sort and filter of a browser takes time for every cell."""
# A map with more columns opens with its datasets folded to their means.
_MOST_OPEN_COLUMNS = 24


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the page.

    Attributes:
      dataset: Its dataset; "" for the mean over all.
      prompt: Place of the prompt in the map; None for a mean.
      title: What stands above it.
      letters: Of `marks`, for the data.
      is_start: Whether it is the first one of its dataset.
    """

    dataset: str
    prompt: int | None
    title: str
    letters: str = ""
    is_start: bool = True


class _Drawing:
    """A map's columns, with what all its cells are compared with."""

    def __init__(
        self,
        shown: report.HeatMap,
        links: Mapping[tuple[str, str], str],
        cards: Mapping[str, str],
    ) -> None:
        self.map, self.links, self.cards = shown, links, cards
        self.letters = shown.mean_letters()
        self.columns = list(_columns(shown))
        self.tasks = [self._tasks(column) for column in self.columns]
        self.rows = [self.values(row) for row in shown.values]
        baseline = self.values(shown.baseline)
        # What is compared, by column; a mean over a part of the prompts is not.
        compared = [
            [
                row[j]
                for name, row in zip(shown.experts, self.rows, strict=True)
                if self._is_compared(name, j)
            ]
            for j in range(len(self.columns))
        ]
        self.middles = [*map(_middle, baseline, compared)]
        self.best = [*map(_greatest, compared)]
        gaps = [
            abs(value - middle)
            for middle, values in zip(self.middles, compared, strict=True)
            for value in values
            if value is not None
        ]
        self.reach = max([_LEAST_COLOUR_RANGE, *gaps])

    def values(self, row: Sequence[float | None]) -> list[float | None]:
        """Returns the values of a row: its means, and its prompts."""
        means = self.map.by_dataset(row)
        means[""] = self.map.mean(row)
        return [
            means[column.dataset] if column.prompt is None else row[column.prompt]
            for column in self.columns
        ]

    def first_rows(self, most_cells: int) -> list[tuple[str, list[float | None]]]:
        """Returns experts with their values: the first and the marked ones."""
        number = max(1, most_cells // len(self.columns))
        chosen = {*self.map.chosen}
        return [
            (name, values)
            for place, (name, values) in enumerate(
                zip(self.map.experts, self.rows, strict=True)
            )
            if place < number or name in chosen
        ]

    def _tasks(self, column: _Column) -> list[str]:
        """Returns the tasks of a column; none for the mean over all."""
        if column.prompt is not None:
            return [*self.map.tasks[column.prompt : column.prompt + 1]]
        columns_and_tasks = zip(
            self.map.columns, self.map.tasks, strict=bool(self.map.tasks)
        )
        return [
            task
            for (dataset, _), task in columns_and_tasks
            if dataset == column.dataset
        ]

    def row(self, name: str, values: Sequence[float | None]) -> markupsafe.Markup:
        """Returns an expert's row, its cells shaded by their distance from the base."""
        cells = []
        for j, value in enumerate(values):
            classes = ["start"] if self.columns[j].is_start else []
            inside = self._inside(name, j, value)
            if value is not None and self._is_compared(name, j):
                gap = value - self.middles[j]
                shade = round(SHADES * abs(gap) / self.reach)
                classes += [f"{'u' if gap > 0 else 'd'} s{shade}"] if shade else []
                classes += ["best"] if value == self.best[j] else []
            if self._is_chosen(name, j):
                label = markupsafe.escape(text.plain(self.map.chosen_by))
                inside += f'<span class="mark" title="{label}">◆</span>'
            attribute = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{attribute}>{inside}</td>")
        return _row(name, cells, card=self.cards.get(name, ""))

    def reference(
        self, name: str, values: Sequence[float | None], kind: str = "reference"
    ) -> markupsafe.Markup:
        """Returns the row of what is no expert, without colours."""
        cells = []
        for j, value in enumerate(values):
            attribute = ' class="start"' if self.columns[j].is_start else ""
            cells.append(f"<td{attribute}>{self._inside(name, j, value)}</td>")
        return _row(name, cells, kind, self.cards.get(name, ""))

    def _is_compared(self, name: str, j: int) -> bool:
        """Returns whether a cell has a colour: all but the mean over all, and parts."""
        column = self.columns[j]
        if column.prompt is not None:
            return True
        letters = self.letters.get((name, column.dataset), "")
        return bool(column.dataset) and marks.PART not in letters

    def _inside(self, name: str, j: int, value: float | None) -> str:
        column = self.columns[j]
        if column.prompt is None:
            letters = self.letters.get((name, column.dataset), "")
        else:
            letters = self.map.marks.get((name, column.prompt), "")
        shown = f"{text.number(value)}{_sup(letters)}"
        link = self._link(name, j) if self.links else ""
        return f'<a href="{markupsafe.escape(link)}">{shown}</a>' if link else shown

    def _link(self, name: str, j: int) -> str:
        """Returns the link to examples; for a mean, to those of its first prompt."""
        keys = ((name, task) for task in self.tasks[j])
        return next((self.links[key] for key in keys if key in self.links), "")

    def _is_chosen(self, name: str, j: int) -> bool:
        prompt = self.columns[j].prompt
        return prompt is not None and self.map.chosen[prompt] == name


def draw(
    shown: report.HeatMap,
    links: Mapping[tuple[str, str], str] | None = None,
    cards: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns what the template prints of a map.

    Args:
      shown: The map.
      links: Where examples of (label, task) are shown.
      cards: Where an expert's card is, by its name.
    """
    drawing = _Drawing(shown, links or {}, cards or {})
    columns = drawing.columns
    has_base = any(value is not None for value in shown.baseline)
    pinned = [drawing.reference("base", drawing.values(shown.baseline))] * has_base
    references = [
        (reference.label, drawing.values(reference.values))
        for reference in shown.references
    ]
    for reference, (label, values) in zip(shown.references, references, strict=True):
        kind = "reference bound" if reference.is_bound else "reference"
        pinned.append(drawing.reference(label, values, kind))
    shown_rows = drawing.first_rows(MOST_CELLS)
    groups = [
        (name, sum(column.dataset == name for column in columns))
        for name in dict.fromkeys(column.dataset for column in columns)
    ]
    is_folded = len(columns) > _MOST_OPEN_COLUMNS
    return {
        "title": shown.title,
        "is_folded": is_folded,
        "hidden": [*_hidden(groups)] if is_folded else [],
        "groups": groups,
        "columns": columns,
        "column_sups": [markupsafe.Markup(_sup(c.letters)) for c in columns],  # noqa: S704
        "legend": shown.legend,
        "has_base": has_base,
        "has_bound": any(reference.is_bound for reference in shown.references),
        "chosen_by": text.plain(shown.chosen_by) if any(shown.chosen) else "",
        "has_links": bool(links),
        "reach": drawing.reach,
        "num_experts": len(shown.experts),
        "num_left_out": len(shown.experts) - len(shown_rows),
        "file": csv_tables.file_name(shown.title),
        "pinned": pinned,
        "rows": [drawing.row(name, values) for name, values in shown_rows],
        "values": embedded.json(
            {
                "groups": groups,
                "columns": [column.title for column in columns],
                "pinned": [["base", _exact(drawing.values(shown.baseline))]] * has_base
                + [[label, _exact(values)] for label, values in references],
                "rows": [[name, _exact(values)] for name, values in shown_rows],
            }
        ),
    }


def _hidden(groups: Sequence[tuple[str, int]]) -> Iterator[tuple[int, int]]:
    """Yields ranges of columns that folded datasets hide, from 1, that of names too."""
    start = 2
    for _, count in groups:
        if count > 1:
            yield start + 1, start + count - 1
        start += count


def _columns(shown: report.HeatMap) -> Iterator[_Column]:
    """Yields the mean over all, then each dataset's mean and prompts."""
    of_all = "".join(shown.column_marks.values())
    yield _Column("", None, "mean", marks.joined(of_all, ""))
    datasets = [dataset for dataset, _ in shown.columns]
    for name in dict.fromkeys(datasets):
        prompts = [j for j, dataset in enumerate(datasets) if dataset == name]
        if len(prompts) > 1:
            letters = "".join(shown.column_marks.get(j, "") for j in prompts)
            yield _Column(name, None, "mean", marks.joined(letters, ""))
        for j in prompts:
            letters = shown.column_marks.get(j, "")
            title = shown.columns[j][1]
            yield _Column(name, j, title, letters, len(prompts) == 1)


def _row(
    name: str, cells: Sequence[str], kind: str = "", card: str = ""
) -> markupsafe.Markup:
    shown = markupsafe.escape(text.plain(name))
    attribute = f' class="{kind}"' if kind else ""
    inside = f'<a href="{markupsafe.escape(card)}">{shown}</a>' if card else shown
    head = f'<th scope="row" title="{shown}">{inside}</th>'
    return markupsafe.Markup(f"<tr{attribute}>{head}{''.join(cells)}</tr>")  # noqa: S704


def _sup(letters: str) -> str:
    return f"<sup>{','.join(letters)}</sup>" if letters else ""


def _exact(values: Sequence[float | None]) -> list[float | None]:
    """Returns values to sort by and to download: rounded to 0.0001 percent."""
    return [None if value is None else round(value, 4) for value in values]


def _middle(base: float | None, values: Sequence[float | None]) -> float:
    """Returns the base model's score, or without one the experts' median."""
    if base is not None:
        return base
    scores = [value for value in values if value is not None]
    return statistics.median(scores) if scores else 0.0


def _greatest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
