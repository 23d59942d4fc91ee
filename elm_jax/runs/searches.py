"""What all searches for the coefficients of a merge have in common."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

from elm_jax import errors, fields
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import search_problems, search_rows
from elm_jax.runs.run import Plan


class Found(NamedTuple):
    """The outcome of a search.

    Attributes:
      method: With the coefficients that were chosen.
      facts: Facts about the search for the recipe of the merge, as JSON values.
    """

    method: MergeMethod
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(abc.ABC):
    """A way to choose coefficients of a merge.

    Attributes:
      rows: Which rows choose.
    """

    kind: ClassVar[str]
    cross_fits: ClassVar[bool] = False
    """Whether it can also tell the score of choosing."""
    by_probability: ClassVar[bool] = False
    """Whether probabilities of answer choices decide, and not scores of rows."""
    rows: search_rows.Rows = search_rows.Rows()

    def __post_init__(self) -> None:
        """Raises ConfigError for an option with a value that it cannot have."""
        fields.check(self)

    def check(self, method: MergeMethod) -> None:
        """Raises ConfigError unless the search can choose coefficients in this way."""
        if self.rows.cross_fit and not self.cross_fits:
            raise errors.ConfigError(
                found=f"cross_fit = True for {self.kind}, which does not cross-fit",
                expected="a sweep, or rows that are not reported",
                do="Leave cross_fit out, and choose on rows of another split",
            )
        self.check_method(method)

    @abc.abstractmethod
    def check_method(self, method: MergeMethod) -> None:
        """Raises ConfigError unless it can choose coefficients of a method."""

    @abc.abstractmethod
    def num_merges(self, num_experts: int) -> int:
        """Returns how many merges it scores at most."""

    def plan(self, num_experts: int) -> Plan:
        """Returns what it will do, as lines of a plan; reads nothing."""
        split, number = self.rows.split, self.rows.num_rows
        which_rows = f"{number} {split} rows" if number else f"all {split} rows"
        return {
            "search": self,
            "search scores": f"at most {self.num_merges(num_experts)} merges, on"
            f" {which_rows} of each task; this takes its own time",
        }

    @abc.abstractmethod
    def find(self, problem: search_problems.Problem) -> Found:
        """Returns the method with the chosen coefficients."""

    def recipe(self) -> dict[str, Any]:
        """Returns the settings that decide the result, with the recipe of the rows."""
        options = dataclasses.asdict(self)
        options["rows"] = self.rows.recipe()
        return {"search": self.kind, **options}
