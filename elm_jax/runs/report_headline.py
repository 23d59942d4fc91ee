"""The main table of a report: what each way to choose parameters scores."""

import math
from collections.abc import Sequence

from elm_jax.evaluation import results, row_columns
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.reporting import marks, report, text
from elm_jax.runs import report_figures
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_way import Way
from elm_jax.runs.report_ways import Ways


def make(ways: Ways, reported: ComparableRows) -> report.Headline:
    """Returns the main table: chance, and what each way scores on each dataset."""
    rows = [_chance(ways, reported)]
    groups = [*(_of_dataset(ways.rows, name) for name in ways.datasets), ways.rows]
    letters: dict[tuple[str, int], str] = {}
    for way in ways.all:
        cells = [_cell(way, name) for name in (*ways.datasets, "")]
        rows.append(
            report.HeadlineRow(way.label, tuple(cells), way.note, way.is_reference)
        )
        parts = [*(_of_dataset(way.rows, name) for name in ways.datasets), way.rows]
        for place, part in enumerate(parts):
            letters[way.label, place] = marks.of_scores(part)
    short = text.without_common_prefix(ways.datasets)
    return report.Headline(
        columns=(*short, "mean"),
        rows=tuple(rows),
        column_marks=dict(enumerate(map(marks.of_data, groups))),
        marks=letters,
        legend=(
            *marks.legend([row for way in ways.all for row in way.rows]),
            report_figures.resampled(ways.all),
        ),
        # The first row is chance.
        strong=frozenset((i + 1, j) for i, j in report_figures.strong(ways.all)),
    )


def _chance(ways: Ways, reported: ComparableRows) -> report.HeadlineRow:
    names = sorted(task for (task,) in ways.rows.distinct("task"))
    rows = reported.of(names, split=ways.rows[0].split, metric="chance")
    lasts = rows.take(rows.groups("dataset", "task").lasts)
    by_task = {(row.dataset, row.task): row.value for row in lasts}
    means = []
    for dataset in ways.datasets:
        values = [v for (name, _), v in by_task.items() if name == dataset]
        means.append(sum(values) / len(values) if values else float("nan"))
    means.append(sum(means) / len(means))
    cells = [None if math.isnan(m) else results.Interval(m) for m in means]
    return report.HeadlineRow("chance", tuple(cells), "a fair guess", True)


def _of_dataset(rows: Sequence[results.ResultRow], name: str) -> RowColumns:
    return row_columns.of(rows).where(dataset=name)


def _cell(way: Way, dataset: str) -> results.Interval | None:
    """Returns the score on a dataset, or the mean over all for ""; None if not whole.

    A mean over other prompts than those of the other ways could not be compared. Where
    the rows chose an expert, an interval from them would be about their luck, too.
    """
    estimate = way.whole if not dataset else None
    if dataset and way.score is not None and dataset in way.score.datasets:
        estimate = way.score.of(dataset)
    if estimate is None:
        return None
    return results.Interval(estimate.mean) if way.is_bound else estimate.interval
