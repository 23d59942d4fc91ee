"""Races: the best of many experts, without scoring all of them on all rows.

As in successive halving (Jamieson and Talwalkar, 2016, Non-stochastic Best Arm
Identification), all experts begin on a few rows and those that stay go on to twice as
many. An expert is not dropped by its place, as there, but by a test, as in Hoeffding
races (Maron and Moore, 1994): when the leader is shown to be better on all rows. So a
race has a stated chance of losing the best expert, and experts that are about as good
stay.

The test is the exact sign test of the rows on which the two differ. All rows are drawn
without replacement, which spreads counts less than the binomial distribution says
(Uhlmann, 1966). The chance is shared by all opponents and rounds (Bonferroni).

An expert that was trained with several seeds is one entrant, with the mean over its
trainings on each row. A part of a row by which two such means differ counts as a whole
row with that part as its chance, by one draw for each row. So what is tested is the
mean over trainings, and the test stays exact.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from elm_jax import fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Racing:
    """How experts race on a task.

    Attributes:
      chance_of_losing: The best expert is dropped with at most this probability.
      first_rows: Rows of the first round; each further round has twice as many as all
        before it had. What has not been dropped by half of the rows is scored on all.
    """

    chance_of_losing: fields.ShareBelowOne = 0.05
    first_rows: fields.Count = 32

    def __post_init__(self) -> None:
        """Raises ConfigError if a value is out of its range."""
        fields.check(self)

    def rounds(self, num_rows: int) -> tuple[int, ...]:
        """Returns how many rows have been seen after each round but the whole.

        >>> Racing(first_rows=32).rounds(300)
        (32, 64, 128)
        """
        ends = []
        end = self.first_rows
        while 2 * end <= num_rows:
            ends.append(end)
            end *= 2
        return tuple(ends)

    def staying(
        self,
        values: np.ndarray,
        *,
        num_experts: int,
        num_rows: int,
        rounding: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Returns which experts stay after a round.

        Args:
          values: Float [experts, rows] in [0, 1]: what those that are left have on the
            rows seen up to now, in one order of rows.
          num_experts: That began the race.
          num_rows: Of the task.
          rounding: Float [rows], drawn evenly from [0, 1): above what part of a row
            one counts as whole. 0, for single trainings, counts all parts, which are
            halves of fair draws, against the leader.

        Returns:
          Bool [experts]; the leader stays.
        """
        tests = (num_experts - 1) * len(self.rounds(num_rows))
        if not tests:
            return np.ones(len(values), bool)
        leader = values[np.argmax(values.mean(axis=1))]
        signs = np.floor(np.round(leader[None] - values, 9) + rounding)
        wins, losses = (signs > 0).sum(axis=1), (signs < 0).sum(axis=1)
        return _chance_of(wins, losses) >= self.chance_of_losing / tests


def _chance_of(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Returns the chance of this many wins or more, if losses are as likely as wins."""
    return np.where(wins > 0, special.bdtrc(wins - 1, wins + losses, 0.5), 1.0)


def order(rows: Sequence[int], *, seed: int | Sequence[int]) -> np.ndarray:
    """Returns rows in the order in which rounds take them, the same for all experts."""
    return np.random.default_rng(seed).permutation(rows)
