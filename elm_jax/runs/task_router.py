"""What a router of whole tasks is: a strategy that ranks the experts of a library."""

import abc
import dataclasses
import math
from typing import Literal

from elm_jax import errors, fields
from elm_jax.merging import averages
from elm_jax.runs import queries
from elm_jax.runs.strategy import Choice, LibraryStrategy

Ranked = tuple[tuple[str, float], ...]
"""Names of experts, each with a number, the best first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRouter(LibraryStrategy):
    """A strategy that ranks whole experts for a task, and takes the first ones.

    Attributes:
      num_experts: How many are taken; fewer where fewer are ranked.
      abstains: Whether no expert is taken where the best one has less than `least`, or
        none is ranked.
      least: Of what ranks experts; `routing.abstaining` finds it by held-in tasks. With
        0, votes abstain only where no expert is ranked. For log-probabilities it must
        be below 0.
      otherwise: What is taken then: the `base`, or the `uniform` mean of all experts.
    """

    num_experts: fields.Count = 1
    abstains: bool = False
    least: fields.Finite = 0.0
    otherwise: Literal["base", "uniform"] = "base"

    def __post_init__(self) -> None:
        """Raises ConfigError for a `least` that no expert can have."""
        super().__post_init__()
        if self.abstains and self.ranks_below_0 and self.least >= 0:
            fields.refuse(
                self,
                {
                    "least": "below 0, such as -2.0; abstaining.least_for finds one by"
                    " tasks with labels"
                },
                of_kind=f"with abstains = True, while {self.kind} ranks experts by"
                " numbers below 0, so that no expert would ever be taken",
            )

    @property
    def ranks_below_0(self) -> bool:
        """Whether numbers that rank experts are below 0, as log-probabilities are."""
        return False

    @property
    def label(self) -> str:
        """The name that result rows give it, which tells from when on it abstains."""
        below = f"_or_{self.otherwise}_below_{self.least:g}" if self.abstains else ""
        return self.name or f"{self.default_name}{below}"

    def noted(self, text: str) -> str:
        """Returns a note, with from when on it abstains."""
        below = f"{self.otherwise} below {self.least:g}" if self.abstains else ""
        return ", ".join(filter(None, [text, below]))

    @property
    def merges(self) -> bool:
        """Whether it may take several experts."""
        return self.num_experts > 1 or self._may_take_all

    @property
    def _may_take_all(self) -> bool:
        return self.abstains and self.otherwise == "uniform"

    def num_taken(self, num_experts: int) -> int:
        """Returns how many of a library's experts it takes at most, for plans."""
        return num_experts if self._may_take_all else min(num_experts, self.num_experts)

    def abstains_from(self, ranked: Ranked) -> bool:
        """Returns whether it takes none of the experts that it has ranked."""
        return self.abstains and (not ranked or ranked[0][1] < self.least)

    def pick(self, question: queries.Question) -> Choice:
        """Returns the first experts as they are taken, or what is taken otherwise.

        Raises:
          DataError: As `ranked`; or it ranks no expert, and does not abstain.
        """
        ranked = self.ranked(question)
        if self.abstains_from(ranked):
            if self.otherwise == "base":
                return Choice(())
            return Choice(tuple(sorted(question.experts)), averages.RunningMean())
        if not ranked:
            raise errors.DataError(
                found=f"no expert that {self.label} ranks for {question.task}",
                expected="one or more",
                do="Take another router, or set abstains = True, which takes the base"
                " where there is none",
            )
        return self.take(ranked[: self.num_experts])

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, and how they are merged: by their mean."""
        return Choice(tuple(name for name, _ in first_pairs))

    @abc.abstractmethod
    def ranked(self, question: queries.Question) -> Ranked:
        """Returns experts with what ranks them, the best first.

        Raises:
          ElmError: What ranks them cannot be computed for this task.
        """


def shares(ranked: Ranked) -> list[float]:
    """Returns what ranks experts divided by its sum; as it is, if all is 0."""
    total = math.fsum(number for _, number in ranked)
    return [number / (total or 1.0) for _, number in ranked]


def weighed(first_pairs: Ranked) -> Choice:
    """Returns experts, and the mean of several that is weighed by what ranks them."""
    names, weights = zip(*first_pairs, strict=True)
    if len(names) == 1:
        return Choice(names)
    return Choice(names, averages.Weighted(weights=weights))
