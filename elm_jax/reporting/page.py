"""A report as one HTML page without external files.

The page makes no request; its content security policy forbids that, and every script
but its own, which is named by a hash. Without scripts it shows the same numbers. The
template engine escapes every text, and control characters are removed.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from elm_jax.evaluation import results
from elm_jax.reporting import embedded, heat_maps, pairs, plots, report, tables, text

SCRIPTS = (
    "page_tools.js",
    "page_maps.js",
    "page_differences.js",
    "page_pairs.js",
)
# More votes or curves than these are shown when the reader asks for them.
_MOST_CARDS = 48
_VERDICT_SIGNS = {True: "✓", False: "✕", None: "?"}


def render(shown: report.Report) -> str:
    """Returns the HTML text of a report."""
    script = embedded.script(*SCRIPTS)
    return template("page.html.jinja").render(
        report=shown,
        script=script,
        script_policy=markupsafe.Markup(embedded.policy_of(script)),  # noqa: S704
        shades=range(1, heat_maps.SHADES + 1),
        headline=shown.headline and _headline(shown.headline),
        figures=[tables.figures(part) for part in shown.figures],
        dots=shown.headline and _dots(shown.headline),
        heat_maps=[
            heat_maps.draw(part, shown.examples, shown.cards)
            for part in shown.heat_maps
        ],
        pairs=shown.pairs and pairs.draw(shown.pairs),
        votes=[_votes(part) for part in shown.votes],
        curves=[_curve(part) for part in shown.curves],
        signs=_VERDICT_SIGNS,
        MOST_CARDS=_MOST_CARDS,
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
                    "link": headline.links.get((row.label, j), ""),
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
        label = "1 other expert" if len(rest) == 1 else f"{len(rest)} other experts"
        drawn.append(bar(label, sum(count for _, count in rest), True))
    return {"task": votes.task, "total": total, "bars": drawn}


def _curve(curve: report.Curve) -> dict[str, Any]:
    losses: Sequence[float] = [loss for _, loss in curve.points]
    path, other_path = plots.line_paths(curve)
    return {
        "name": curve.name,
        "path": path,
        "other": other_path,
        "first": f"{losses[0]:.2f}" if losses else "–",
        "last": f"{losses[-1]:.2f}" if losses else "–",
        "steps": curve.points[-1][0] if curve.points else 0,
    }
