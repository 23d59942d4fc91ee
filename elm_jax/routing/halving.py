"""Successive halving: the best of many experts on few labelled rows, scored in part.

All experts begin on a few rows. After each round the better half stays and sees as many
rows again as it has seen, until one is left or the rows are used up.

Reference: Jamieson and Talwalkar (2016), Non-stochastic Best Arm Identification;
LORAUTER, https://arxiv.org/abs/2601.21795, finds the adapters of a task so. Rounds that
are bounded by the rows, of which there are few, are ours: there they follow a budget.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Of some experts on some rows: whether each is right, and the share of the answers'
# probability that the right one has, float64 [2, experts, rows].
ScoreFn = Callable[[Sequence[str], Sequence[int]], np.ndarray]


class Halved(NamedTuple):
    """How experts ended.

    Attributes:
      order: All of them, the best first: those that stayed longer before others.
      shares: Of each, that of the rows it was scored on which it answered rightly.
      num_scored: Pairs of an expert and a row that were scored.
    """

    order: tuple[str, ...]
    shares: tuple[float, ...]
    num_scored: int


def halve(
    names: Sequence[str], rows: Sequence[int], score: ScoreFn, *, first_rows: int
) -> Halved:
    """Returns experts by successive halving.

    Experts are compared by the share of rows that they answer rightly, equal ones by
    the mean share of the right answer's probability, and then by name.

    Args:
      names: Of the experts, at least one.
      rows: Places of labelled rows, in the order in which they are seen; at least one.
      score: What scores experts on rows.
      first_rows: Of the first round.
    """
    remaining, fallen = sorted(names), list[str]()
    shares = dict[str, float]()
    row_scores, num_scored, end = np.zeros((2, len(remaining), 0)), 0, 0
    while end < len(rows) and (len(remaining) > 1 or not end):
        start, end = end, min(max(2 * end, first_rows), len(rows))
        added = np.asarray(score(remaining, rows[start:end]), np.float64)
        num_scored += added[0].size
        row_scores = np.concatenate([row_scores, added], axis=2)
        right, share = row_scores.mean(axis=2)
        shares |= zip(remaining, right.tolist(), strict=True)
        # Six digits, so that the noise of other batches does not tell.
        order = np.lexsort((remaining, -np.round(share, 6), -np.round(right, 9)))
        stay = order if end == len(rows) else order[: -(-len(order) // 2)]
        fallen = [remaining[i] for i in order[len(stay) :]] + fallen
        remaining, row_scores = [remaining[i] for i in stay], row_scores[:, stay]
    order_of_all = (*remaining, *fallen)
    return Halved(
        order_of_all, tuple(map(shares.__getitem__, order_of_all)), num_scored
    )
