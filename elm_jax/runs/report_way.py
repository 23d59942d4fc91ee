"""One way to choose parameters for each task, with what it scores."""

import dataclasses
import functools
from collections.abc import Sequence

from elm_jax.evaluation import controls, estimates, results, statistics

Rows = Sequence[results.ResultRow]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One way to choose parameters for each task.

    Attributes:
      label: The name of the way.
      role: What its rows are, such as `strategy`; "" for views, which have none.
      note: What it is, in a few words.
      rows: Its scores, as rows of its name; empty where it has none of its own.
      columns: Its results, by training.
      score: On the datasets of which it was scored on all tasks; None if there is
        none.
      is_whole: Whether that is all of them.
      is_bound: Whether it was chosen by the rows that are reported.
      is_reference: Whether it is only for comparison, and no way to choose.
    """

    label: str
    note: str
    role: str = ""
    rows: Rows = ()
    columns: Sequence[statistics.Columns] = ()
    score: estimates.Estimate | None = None
    is_whole: bool = False
    is_bound: bool = False
    is_reference: bool = False

    @property
    def whole(self) -> estimates.Estimate | None:
        """Its score if that is of all tasks."""
        return self.score if self.is_whole else None

    @functools.cached_property
    def mean(self) -> statistics.Columns:
        """Its results, means over its trainings."""
        return controls.mean_of(self.columns)
