"""A report as one HTML page without external files.

The page runs no script and makes no request; its content security policy forbids both.
The template engine escapes every text, and control characters are removed.
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

# The full colour means at least this many points from the base model, so that a map of
# small differences stays pale.
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


def render(shown: report.Report) -> str:
    """Returns the HTML text of a report."""
    return template("page.html.jinja").render(
        report=shown,
        headline=shown.headline and _headline(shown.headline),
        figures=[tables.figures(part) for part in shown.figures],
        dots=shown.headline and _dots(shown.headline),
        heat_maps=[_heat_map(part) for part in shown.heat_maps],
        votes=[_votes(part) for part in shown.votes],
        curves=[_curve(part) for part in shown.curves],
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

    The output of a macro is markup already, and stays as it is.
    """
    is_text = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return text.plain(value) if is_text else value


def _headline(headline: report.Headline) -> list[dict[str, Any]]:
    """Returns the rows of the main table, with the cells to stress."""
    return [
        {
            "label": row.label,
            "note": row.note,
            "is_reference": row.is_reference,
            "cells": [
                {
                    "cell": cell,
                    "mark": headline.marks.get((row.label, j), ""),
                    "is_best": (i, j) in headline.strong,
                    "has_interval": cell is not None and not math.isnan(cell.low),
                }
                for j, cell in enumerate(row.cells)
            ],
        }
        for i, row in enumerate(headline.rows)
    ]


def _dots(headline: report.Headline) -> dict[str, Any] | None:
    """Returns places of the last column's means and intervals on one axis."""
    rows = [(row, cell) for row in headline.rows if (cell := row.cells[-1])]
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
        "title": headline.columns[-1],
        "rows": [place(row, cell) for row, cell in rows],
        "ticks": [(axis.place(tick), f"{tick:g}") for tick in axis.ticks],
    }


def _ends(cell: results.Interval) -> list[float]:
    """Returns the mean of a cell, and the ends of its interval if it has one."""
    values = (cell.mean, cell.low, cell.high)
    return [value for value in values if not math.isnan(value)]


def _heat_map(heat_map: report.HeatMap) -> dict[str, Any]:
    """Returns a map with its cells shaded by their distance from the base model."""
    columns = range(len(heat_map.columns))
    middles = [_middle(heat_map, j) for j in columns]
    gaps = [
        abs(value - middles[j])
        for row in heat_map.values
        for j, value in enumerate(row)
        if value is not None
    ]
    reach = max([_LEAST_COLOUR_RANGE, *gaps])

    def cell(expert: str, j: int, value: float | None) -> _HeatCell:
        gap = 0.0 if value is None else value - middles[j]
        return _HeatCell(
            text=text.number(value),
            mark=heat_map.marks.get((expert, j), ""),
            shade=round(100 * abs(gap) / reach),
            side="up" if gap > 0 else "down" if gap < 0 else "",
            is_best=value is not None and value == heat_map.best(j),
            is_retrieved=expert == heat_map.retrieved[j],
        )

    datasets = [dataset for dataset, _ in heat_map.columns]
    return {
        "title": heat_map.title,
        "groups": [(name, datasets.count(name)) for name in dict.fromkeys(datasets)],
        "starts": [j == 0 or datasets[j] != datasets[j - 1] for j in columns],
        "prompts": [prompt for _, prompt in heat_map.columns],
        "column_marks": heat_map.column_marks,
        "marks": heat_map.marks,
        "legend": heat_map.legend,
        "baseline": heat_map.baseline
        if any(v is not None for v in heat_map.baseline)
        else None,
        "has_retrieved": any(heat_map.retrieved),
        "reach": reach,
        "rows": [
            {
                "name": name,
                "mean": heat_map.mean(heat_map.values[i]),
                "mean_mark": marks.PART if heat_map.is_part(heat_map.values[i]) else "",
                "cells": [cell(name, j, heat_map.values[i][j]) for j in columns],
            }
            for i, name in enumerate(heat_map.experts)
        ],
    }


def _middle(heat_map: report.HeatMap, column: int) -> float:
    """Returns the base model's score, or without one the experts' median."""
    base = heat_map.baseline[column]
    if base is not None:
        return base
    values = [value for row in heat_map.values if (value := row[column]) is not None]
    return statistics.median(values) if values else 0.0


def _votes(votes: report.Votes, *, shown: int = 5) -> dict[str, Any]:
    """Returns the bars of one task; all experts after the first few share one bar."""
    total = sum(count for _, count in votes.counts) or 1
    bars = [(name, count) for name, count in votes.counts[:shown]]
    rest = votes.counts[shown:]

    def bar(name: str, count: int, is_rest: bool) -> dict[str, Any]:
        width = round(100.0 * count / total, 1)
        return {"name": name, "count": count, "width": width, "is_rest": is_rest}

    drawn = [bar(name, count, False) for name, count in bars]
    if rest:
        others = "1 other expert" if len(rest) == 1 else f"{len(rest)} other experts"
        drawn.append(bar(others, sum(count for _, count in rest), True))
    return {"task": votes.task, "total": total, "bars": drawn}


def _curve(curve: report.Curve) -> dict[str, Any]:
    losses: Sequence[float] = [loss for _, loss in curve.points]
    path, other = plots.line_paths(curve)
    return {
        "name": curve.name,
        "path": path,
        "other": other,
        "first": f"{losses[0]:.2f}" if losses else "–",
        "last": f"{losses[-1]:.2f}" if losses else "–",
        "steps": curve.points[-1][0] if curve.points else 0,
    }
