"""When to choose no expert: thresholds by what held-in tasks show."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Abstention(NamedTuple):
    """Coverage and risk of a threshold, on the tasks by which it was chosen.

    Attributes:
      least: An expert is taken where the router's value is at least this.
      coverage: Share of the tasks for which one is taken.
      risk: Mean loss over these tasks.
    """

    least: float
    coverage: float
    risk: float


def curve(values: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Abstention, ...]:
    """Returns coverage and risk for every threshold that makes a difference.

    Args:
      values: Of each task, the router's value for the expert that it chooses.
      losses: Of each task, the loss of that choice, such as 1 where the expert is no
        better than the base on labelled rows, else 0.

    Returns:
      The greatest threshold first; one for each value.

    >>> [one.risk for one in curve([3.0, 1.0, 2.0, 2.0], [0, 1, 1, 0])]
    [0.0, 0.3333333333333333, 0.5]
    """
    values, losses = np.asarray(values, float), np.asarray(losses, float)
    points = []
    for least in np.unique(values)[::-1].tolist():
        is_covered = values >= least
        coverage, risk = float(is_covered.mean()), float(losses[is_covered].mean())
        points.append(Abstention(least, coverage, risk))
    return tuple(points)


def least_for(
    values: npt.ArrayLike, losses: npt.ArrayLike, *, most_risk: float
) -> Abstention | None:
    """Returns the threshold of the greatest coverage whose risk is low enough.

    Args:
      values: As for `curve`, as are losses.
      losses: Of each task.
      most_risk: The greatest mean loss.

    Returns:
      None where no threshold has so low a risk.
    """
    good = [point for point in curve(values, losses) if point.risk <= most_risk]
    return good[-1] if good else None
