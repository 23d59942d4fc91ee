"""The content of a report, as data; tables and the page only draw it."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from elm_jax.evaluation import results, row_columns
from elm_jax.reporting import marks
from elm_jax.reporting.pairs import Pairs

Interval = results.Interval


@dataclasses.dataclass(frozen=True)
class HeadlineRow:
    """One way to choose parameters, and its scores.

    Attributes:
      label: Name of the way, such as `retrieved`.
      cells: One score per column, or None where there is none.
      note: What it is, in a few words.
      is_reference: Whether it is a mark to compare with, such as chance or an upper
        bound, which is never stressed.
    """

    label: str
    cells: tuple[Interval | None, ...]
    note: str = ""
    is_reference: bool = False


@dataclasses.dataclass(frozen=True)
class Headline:
    """Scores of all ways on unseen datasets, in percent.

    Attributes:
      columns: Names of the datasets, then of their mean.
      rows: Rows with as many cells.
      title: What is shown.
      column_marks: Letters of `marks` that the data of a column needs, by its place.
      marks: Those that a score needs, by (label, place of the column).
      legend: What the letters mean, a sentence each.
      strong: (row, column), from 0, of the scores to stress.
      links: Where examples are, by (label, place of the column).
    """

    columns: tuple[str, ...]
    rows: tuple[HeadlineRow, ...]
    title: str = "Unseen tasks"
    column_marks: Mapping[int, str] = dataclasses.field(default_factory=dict)
    marks: Mapping[tuple[str, int], str] = dataclasses.field(default_factory=dict)
    legend: tuple[str, ...] = ()
    strong: frozenset[tuple[int, int]] = frozenset()
    links: Mapping[tuple[str, int], str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figures:
    """A table of numbers about some methods or experts.

    Attributes:
      title: What is shown.
      columns: Titles of the figures.
      rows: A name and its figures; None where there is none.
      notes: How to read it, a sentence each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple["Figure", ...]], ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Signed:
    """A difference: shown with its sign."""

    value: Interval


Figure = Interval | Signed | float | str | None
"""Intervals and floats are shown to one decimal."""


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Experts x tasks, in percent.

    Attributes:
      title: What is shown.
      columns: (dataset, prompt) of every task.
      experts: Names, in the order shown.
      values: One row per expert, one value per column; None where not scored.
      baseline: The base model's scores, or None where not scored.
      chosen: For each column, the expert that a strategy chose, or "".
      chosen_by: The strategy's name, which the marks of these cells show.
      column_marks: Letters of `marks` that the data of a column needs, by its place.
      marks: As for `Headline`, by (expert, place of the column).
      legend: What the letters mean, a sentence each.
      tasks: Names of the columns' tasks; () where nobody needs them.
      references: What else is shown beside experts, such as strategies.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    experts: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    baseline: tuple[float | None, ...]
    chosen: tuple[str, ...]
    column_marks: Mapping[int, str] = dataclasses.field(default_factory=dict)
    marks: Mapping[tuple[str, int], str] = dataclasses.field(default_factory=dict)
    legend: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    references: tuple["Reference", ...] = ()
    chosen_by: str = ""

    def by_dataset(self, values: Sequence[float | None]) -> dict[str, float | None]:
        """Returns the mean over prompts of each dataset, of one row of values."""
        return {
            name: _mean([v for place in places if (v := values[place]) is not None])
            for name, places in self._places.items()
        }

    @functools.cached_property
    def _places(self) -> dict[str, list[int]]:
        """Places of the columns of each dataset."""
        places: dict[str, list[int]] = {}
        for place, (dataset, _) in enumerate(self.columns):
            places.setdefault(dataset, []).append(place)
        return places

    def parts(self, values: Sequence[float | None]) -> set[str]:
        """Returns the datasets of which only some prompts have a value."""
        lacking: set[str] = set()
        complete: set[str] = set()
        for (dataset, _), value in zip(self.columns, values, strict=True):
            (lacking if value is None else complete).add(dataset)
        return lacking & complete

    def is_part(self, values: Sequence[float | None]) -> bool:
        """Returns whether the mean of one row of values leaves out some columns."""
        return None in values and any(value is not None for value in values)

    def mean(self, values: Sequence[float | None]) -> float | None:
        """Returns the mean over datasets of means over prompts, of one row."""
        means = self.by_dataset(values).values()
        return _mean([value for value in means if value is not None])

    def mean_letters(self) -> dict[tuple[str, str], str]:
        """Returns the letters of means, by name and dataset; "" for that over all."""
        letters: dict[tuple[str, str], str] = {}
        for (name, place), cell_letters in self.marks.items():
            for dataset in (self.columns[place][0], "") if cell_letters else ():
                old_letters = letters.get((name, dataset), "")
                letters[name, dataset] = marks.joined(old_letters, cell_letters)
        rows = [("base", self.baseline), *zip(self.experts, self.values, strict=True)]
        rows += [(reference.label, reference.values) for reference in self.references]
        for name, values in rows:
            for dataset in [*self.parts(values), *[""] * self.is_part(values)]:
                old_letters = letters.get((name, dataset), "")
                letters[name, dataset] = marks.joined(old_letters, marks.PART)
        return letters


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is no expert in a map of experts: a baseline or a strategy.

    Attributes:
      label: The name of the baseline or strategy.
      values: Its score on each column of the map; None where it was not scored.
      is_bound: Whether it was chosen by the values that are shown.
    """

    label: str
    values: tuple[float | None, ...]
    is_bound: bool = False


@dataclasses.dataclass(frozen=True)
class Votes:
    """How many queries of a task voted for each expert, most first."""

    task: str
    counts: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Curve:
    """An expert's training loss.

    Attributes:
      name: Name of the expert.
      points: (step, loss in nats per token), by step.
      compared: Points of the same expert trained in another way, drawn for comparison.
    """

    name: str
    points: tuple[tuple[int, float], ...]
    compared: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report; parts that are empty are left out.

    Attributes:
      title: What was run.
      summary: One or two sentences below the title.
      claims: The claims, with verdicts.
      headline: The main table.
      figures: What goes with the main table, such as differences of its rows.
      heat_maps: Experts x tasks, such as one for unseen and one for trained tasks.
      pairs: Models of which a reader of the page may compare any two.
      examples: Where examples are shown, by (label, task), seen from the page.
      cards: Where an expert's card is, by its name, seen from the page.
      votes: Retrieval votes by task.
      curves: Learning curves.
      details: Facts about the run, as (name, value).
      links: Pages that details tell of, by the names of these, seen from the page.
      notes: Remarks on how to read it, one sentence or more each.
    """

    title: str
    summary: str = ""
    claims: tuple[results.Claim, ...] = ()
    headline: Headline | None = None
    figures: tuple[Figures, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()
    pairs: Pairs | None = None
    examples: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    cards: Mapping[str, str] = dataclasses.field(default_factory=dict)
    votes: tuple[Votes, ...] = ()
    curves: tuple[Curve, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def heat_map(
    rows: Iterable[results.ResultRow],
    *,
    title: str,
    baseline: str = "base",
    chosen: Mapping[str, str] | None = None,
    chosen_by: str = "",
) -> HeatMap:
    """Returns the map of all single experts, best mean first.

    Args:
      rows: Rows of one split and metric; of strategies only the baseline is used.
      title: What is shown.
      baseline: The `expert` of the base model's rows.
      chosen: Experts that a strategy chose, by task.
      chosen_by: The strategy's name.
    """
    columns = row_columns.of(rows)
    is_base = columns.coded("expert").are(baseline.__eq__)
    singles = columns.take(is_base | row_columns.are_single_experts(columns))
    singles = singles.take(singles.groups("expert", "task").lasts)
    tasks = {task: (data, name) for task, data, name in singles.distinct(*_COLUMN)}
    # Two tasks whose prompts have the same name are two columns.
    names = sorted(tasks, key=lambda task: (tasks[task], task))
    places = {task: place for place, task in enumerate(names)}
    by_expert = {
        name: _placed(expert_rows, places)
        for name, expert_rows in singles.split("expert").items()
    }
    no_values: tuple[float | None, ...] = (None,) * len(names)
    unfilled = HeatMap(
        title=title,
        columns=tuple(tasks[task] for task in names),
        experts=(),
        values=(),
        baseline=by_expert.pop(baseline, no_values),
        chosen=tuple((chosen or {}).get(task, "") for task in names),
        chosen_by=chosen_by,
        tasks=tuple(names),
    )
    means = {name: unfilled.mean(values) or 0 for name, values in by_expert.items()}
    order = sorted(by_expert, key=lambda name: (-means[name], name))
    values = tuple(by_expert[name] for name in order)
    legend = marks.legend(singles)
    if any(map(unfilled.is_part, (unfilled.baseline, *values))):
        legend += (marks.PART_LEGEND,)
    letters = zip(
        singles.coded("expert").listed(),
        singles.coded("task").listed(),
        marks.of_each_score(singles),
        strict=True,
    )
    return dataclasses.replace(
        unfilled,
        experts=tuple(order),
        values=values,
        column_marks={
            places[task]: marks.of_data(task_rows)
            for task, task_rows in singles.split("task").items()
        },
        marks={
            (name, places[task]): letter for name, task, letter in letters if letter
        },
        legend=legend,
    )


_COLUMN = ("task", "dataset", "prompt")


def _placed(
    rows: row_columns.RowColumns, places: Mapping[str, int]
) -> tuple[float | None, ...]:
    """Returns the values of one expert's rows, in the order of the tasks."""
    placed: list[float | None] = [None] * len(places)
    tasks, values = (rows.coded(name).listed() for name in ("task", "value"))
    for task, value in zip(tasks, values, strict=True):
        placed[places[task]] = value
    return tuple(placed)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
