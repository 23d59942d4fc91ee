"""A report as one HTML page that holds everything it needs and asks for nothing.

The page runs no script and makes no request; its policy forbids both. Every text is
escaped by the template engine, and has lost what does not print.
"""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from elm_jax.evaluation import results
from elm_jax.reporting import marks, plots, report, tables, text

# Scores this many points from the base model, or more, get the full colour, so that
# a map of small differences stays pale.
_LEAST_COLOUR_RANGE = 10.0
_VERDICT_SIGNS = {True: "✓", False: "✕", None: "?"}


@dataclasses.dataclass(frozen=True)
class _HeatCell:
    text: str
    mark: str  # letters of `marks`
    shade: int  # percent of full colour
    side: str  # "up", "down" or "" from the base model
    is_best: bool
    is_retrieved: bool


def render(one: report.Report) -> str:
    """Returns the HTML text of a report."""
    return template("page.html.jinja").render(
        report=one,
        headline=one.headline and _headline(one.headline),
        figures=[tables.figures(part) for part in one.figures],
        dots=one.headline and _dots(one.headline),
        heat_maps=[_heat_map(part) for part in one.heat_maps],
        votes=[_votes(part) for part in one.votes],
        curves=[_curve(part) for part in one.curves],
        signs=_VERDICT_SIGNS,
    )


@functools.cache
def template(name: str) -> jinja2.Template:
    """Returns a template of this folder; it escapes every text it prints."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    environment.filters["number"] = text.number
    return environment.get_template(name)


def _printable(value: Any) -> Any:
    """Returns a value without control characters, whatever the template prints.

    What a macro made of such values is markup already and stays so.
    """
    is_text = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return text.plain(value) if is_text else value


def _headline(one: report.Headline) -> list[dict[str, Any]]:
    """Returns the rows of the main table, with the cells to stress."""
    return [
        {
            "label": row.label,
            "note": row.note,
            "is_reference": row.is_reference,
            "cells": [
                {
                    "cell": cell,
                    "mark": one.marks.get((row.label, j), ""),
                    "is_best": (i, j) in one.strong,
                    "has_interval": cell is not None and not math.isnan(cell.low),
                }
                for j, cell in enumerate(row.cells)
            ],
        }
        for i, row in enumerate(one.rows)
    ]


def _dots(one: report.Headline) -> dict[str, Any] | None:
    """Returns places of the last column's means and intervals on one axis."""
    rows = [(row, cell) for row in one.rows if (cell := row.cells[-1])]
    if not rows:
        return None
    axis = plots.axis([value for _, cell in rows for value in _ends(cell)])

    def place(row: report.HeadlineRow, cell: results.Interval) -> dict[str, Any]:
        low, high = axis.place(min(_ends(cell))), axis.place(max(_ends(cell)))
        return {
            "label": row.label,
            "is_reference": row.is_reference,
            "mean": axis.place(cell.mean),
            "low": low,
            "width": round(high - low, 2),
            "cell": cell,
        }

    return {
        "title": one.columns[-1],
        "rows": [place(row, cell) for row, cell in rows],
        "ticks": [(axis.place(tick), f"{tick:g}") for tick in axis.ticks],
    }


def _ends(cell: results.Interval) -> list[float]:
    """Returns the mean of a cell and what is known of its interval."""
    values = (cell.mean, cell.low, cell.high)
    return [value for value in values if not math.isnan(value)]


def _heat_map(one: report.HeatMap) -> dict[str, Any]:
    """Returns a map with its cells shaded by their distance from the base model."""
    columns = range(len(one.columns))
    middles = [_middle(one, j) for j in columns]
    gaps = [
        abs(value - middles[j])
        for row in one.values
        for j, value in enumerate(row)
        if value is not None
    ]
    reach = max([_LEAST_COLOUR_RANGE, *gaps])

    def cell(expert: str, j: int, value: float | None) -> _HeatCell:
        gap = 0.0 if value is None else value - middles[j]
        return _HeatCell(
            text=text.number(value),
            mark=one.marks.get((expert, j), ""),
            shade=round(100 * abs(gap) / reach),
            side="up" if gap > 0 else "down" if gap < 0 else "",
            is_best=value is not None and value == one.best(j),
            is_retrieved=expert == one.retrieved[j],
        )

    datasets = [dataset for dataset, _ in one.columns]
    return {
        "title": one.title,
        "groups": [(name, datasets.count(name)) for name in dict.fromkeys(datasets)],
        "starts": [j == 0 or datasets[j] != datasets[j - 1] for j in columns],
        "prompts": [prompt for _, prompt in one.columns],
        "column_marks": one.column_marks,
        "marks": one.marks,
        "legend": one.legend,
        "baseline": one.baseline if any(v is not None for v in one.baseline) else None,
        "has_retrieved": any(one.retrieved),
        "reach": reach,
        "rows": [
            {
                "name": name,
                "mean": one.mean(one.values[i]),
                "mean_mark": marks.PART if one.is_part(one.values[i]) else "",
                "cells": [cell(name, j, one.values[i][j]) for j in columns],
            }
            for i, name in enumerate(one.experts)
        ],
    }


def _middle(one: report.HeatMap, column: int) -> float:
    """Returns the base model's score, or the median of the experts' without one."""
    base = one.baseline[column]
    if base is not None:
        return base
    known = [value for row in one.values if (value := row[column]) is not None]
    return statistics.median(known) if known else 0.0


def _votes(one: report.Votes, *, shown: int = 5) -> dict[str, Any]:
    """Returns the bars of one task; what is beyond the first few is one bar."""
    total = sum(count for _, count in one.counts) or 1
    bars = [(name, count) for name, count in one.counts[:shown]]
    rest = one.counts[shown:]

    def bar(name: str, count: int, is_rest: bool) -> dict[str, Any]:
        width = round(100.0 * count / total, 1)
        return {"name": name, "count": count, "width": width, "is_rest": is_rest}

    found = [bar(name, count, False) for name, count in bars]
    if rest:
        others = "1 other expert" if len(rest) == 1 else f"{len(rest)} other experts"
        found.append(bar(others, sum(count for _, count in rest), True))
    return {"task": one.task, "total": total, "bars": found}


def _curve(one: report.Curve) -> dict[str, Any]:
    losses: Sequence[float] = [loss for _, loss in one.points]
    path, other = plots.line_paths(one)
    return {
        "name": one.name,
        "path": path,
        "other": other,
        "first": f"{losses[0]:.2f}" if losses else "–",
        "last": f"{losses[-1]:.2f}" if losses else "–",
        "steps": one.points[-1][0] if one.points else 0,
    }
