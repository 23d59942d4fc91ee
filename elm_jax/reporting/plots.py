"""Positions of marks in plots, in percent of the plot's area."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from elm_jax.reporting import report


@dataclasses.dataclass(frozen=True)
class Axis:
    """A linear axis with round ticks.

    Attributes:
      low: Value at 0 percent.
      high: Value at 100 percent.
      ticks: Values to label, all inside.
    """

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Returns the position of a value, in percent of the axis."""
        return round(100.0 * (value - self.low) / (self.high - self.low), 2)


def axis(values: Sequence[float], *, num_ticks: int = 6) -> Axis:
    """Returns an axis that holds all values, its ticks at 1, 2, 2.5 or 5 x 10^k.

    >>> axis([38.0, 71.0]).ticks
    (30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
    """
    low, high = min(values), max(values)
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    unit = 10.0 ** math.floor(math.log10(span / num_ticks))
    steps = (unit * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0))
    step = next(step for step in steps if span / step <= num_ticks)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def line_paths(curve: report.Curve, *, most_points: int = 120) -> tuple[str, str]:
    """Returns SVG paths over one 100 x 100 area, greatest loss at the top.

    Long curves are drawn as means over equal numbers of steps; losses that are not
    finite are left out.

    Args:
      curve: A learning curve.
      most_points: Upper limit of points of each, which bounds the size of a page.

    Returns:
      The `d` attributes of the paths of the curve and of the one to compare with; ""
      for fewer than two points.
    """
    curves = [_means(points, most_points) for points in (curve.points, curve.compared)]
    all_points = np.concatenate(curves)
    if not len(all_points):
        return "", ""
    low, span = all_points.min(axis=0), np.ptp(all_points, axis=0)
    first, second = (100.0 * (m - low) / np.where(span > 0, span, 1.0) for m in curves)
    return _path(first), _path(second)


def _means(points: Sequence[tuple[int, float]], most_points: int) -> np.ndarray:
    """Returns means of parts of a curve, float64 [parts, 2]; none of a single point."""
    finite = np.array([p for p in points if math.isfinite(p[1])], np.float64)
    if len(finite) < 2:
        return np.empty((0, 2))
    parts = np.array_split(finite, min(most_points, len(finite)))
    return np.array([part.mean(axis=0) for part in parts])


def _path(scaled: np.ndarray) -> str:
    places = (f"{x:.1f} {100.0 - y:.1f}" for x, y in scaled)
    return "M" + "L".join(places) if len(scaled) else ""
