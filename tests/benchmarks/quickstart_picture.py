"""Draws the table of the README's quickstart into launch/quickstart.svg.

Usage: python tests/benchmarks/quickstart_picture.py

The README is the only source of the numbers, so that table and picture tell the same.
"""

import html
import pathlib
import re
import sys
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from elm_jax.reporting import plots  # noqa: E402 - run as a program, too

PICTURE = REPOSITORY / "launch" / "quickstart.svg"
WIDTH, ROW_HEIGHT, TOP = 880, 34, 56
PLOT_LEFT, PLOT_RIGHT = 400, 790
_ROW = re.compile(
    r"^\| (?P<name>[^|]+) \| (?P<mean>\d+\.\d)"
    r"(?: \((?P<low>[\d.]+)–(?P<high>[\d.]+)\))? \|$",
    re.MULTILINE,
)


class Score(NamedTuple):
    """A row of the table, in percent.

    Attributes:
      name: What was scored.
      mean: Over datasets.
      low: Of the interval; the mean, if there is none.
      high: Of the interval.
    """

    name: str
    mean: float
    low: float
    high: float


def scores(readme: str) -> list[Score]:
    """Returns the rows of the quickstart's table in a README's text."""
    table = readme[readme.index("| mean of five unseen datasets |") :]
    rows = _ROW.finditer(table[: table.index("\n\n")])
    return [
        Score(row["name"], mean, float(row["low"] or mean), float(row["high"] or mean))
        for row in rows
        for mean in [float(row["mean"])]
    ]


def drawn(rows: list[Score]) -> str:
    """Returns an SVG picture of means and intervals."""
    axis = plots.axis([end for row in rows for end in (row.low, row.high)])
    bottom = TOP + ROW_HEIGHT * len(rows)

    def x(value: float) -> float:
        return PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * axis.place(value) / 100

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}"'
        ' font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>Accuracy on five unseen datasets, percent</title>",
        '<rect width="100%" height="100%" rx="8" fill="#fff" stroke="#e2dfd8"/>',
        '<text x="24" y="32" font-size="15" fill="#6a6761">Accuracy on unseen datasets,'
        " percent, with 95 % intervals</text>",
    ]
    for tick in axis.ticks:
        lines += [
            f'<path d="M{x(tick):.1f} {TOP}V{bottom}" stroke="#e2dfd8"/>',
            f'<text x="{x(tick):.1f}" y="{bottom + 22}" font-size="13"'
            f' text-anchor="middle" fill="#6a6761">{tick:g}</text>',
        ]
    for place, row in enumerate(rows):
        y = TOP + ROW_HEIGHT * (place + 0.5)
        lines += [
            f'<text x="24" y="{y + 5}" font-size="15" fill="#1d1c1a">'
            f"{html.escape(row.name)}</text>",
            f'<path d="M{x(row.low):.1f} {y}H{x(row.high):.1f}" stroke="#1f5fa8"'
            ' stroke-opacity=".45" stroke-width="4" stroke-linecap="round"/>',
            f'<circle cx="{x(row.mean):.1f}" cy="{y}" r="6" fill="#1f5fa8"/>',
            f'<text x="{WIDTH - 24}" y="{y + 5}" font-size="15" font-weight="600"'
            f' text-anchor="end" fill="#1d1c1a">{row.mean}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(scores((REPOSITORY / "README.md").read_text())))
