"""How experts agree on the sign of a number, and how those that count are summed."""

from typing import Literal

import numpy as np

Sign = Literal["all", "sum", "count"]
Vote = Literal["weighted", "plain"]
Combine = Literal["sum", "mean", "normalised"]


def summed(
    changes: np.ndarray,
    weights: np.ndarray,
    *,
    sign: Sign,
    vote: Vote,
    combine: Combine,
    is_inner: bool,
) -> np.ndarray:
    """Returns the sum, or mean, of some numbers of all experts that agree.

    Args:
      changes: Float [experts, numbers], what is kept of each expert's changes.
      weights: Float [experts].
      sign: Whose numbers count; see `elementwise.Elementwise`, as for the next two.
      vote: With what signs are agreed on.
      combine: How the numbers that count are summed.
      is_inner: Whether they are of an inner side of bottlenecks, which is averaged, as
        no factor applies to it.

    Returns:
      Float [numbers]; each has the bits that it has without the others.
    """
    factors, is_one = weights[:, None], (weights == 1.0).all()
    terms = changes if is_one else changes * factors
    if sign != "all":
        votes = terms if vote == "weighted" else changes
        ballots = np.sign(votes) if sign == "count" else votes
        elected = np.where(_added(ballots) >= 0, 1.0, -1.0).astype(votes.dtype)
        counts = votes * elected > 0
        terms = terms * counts
    else:
        counts = np.ones(changes.shape, bool)
    total = _added(terms)
    if combine == "sum":
        return total
    is_count = combine == "mean" and not is_inner
    if is_count or is_one:
        divisor = np.count_nonzero(counts, axis=0)
    else:
        divisor = _added(counts * np.abs(factors))
    return np.divide(total, divisor, out=np.zeros_like(total), where=divisor != 0)


def _added(rows: np.ndarray) -> np.ndarray:
    """Returns the sum of rows [T, n], one after another, however many numbers.

    So each number of it has the bits that it has without the others.
    """
    if rows.shape[1] > 1 and rows.strides[1] == rows.itemsize:
        # NumPy adds up pairs only along the axis that is fast in memory.
        return np.add.reduce(rows, axis=0)
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total
