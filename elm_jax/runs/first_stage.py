"""Strategies of two stages: a router of whole tasks takes experts, then something else.

Whatever the first stage needs, such as votes or the answers of experts, the strategy
needs.
"""

import dataclasses
import math
from collections.abc import Collection

from elm_jax import errors, fields
from elm_jax.merging import averages
from elm_jax.runs import queries, strategies
from elm_jax.runs.strategy import Choice, LibraryStrategy
from elm_jax.runs.task_router import TaskRouter


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStages(LibraryStrategy):
    """What uses the experts that a router of whole tasks takes.

    Attributes:
      num_experts: Those with most votes are taken, 0 for all of the library.
      first: A first stage that takes them instead; None for `num_experts`, where
        `strategies.Retrieved` is the first stage.
    """

    num_experts: fields.CountOrNone = 0
    first: TaskRouter | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for both."""
        super().__post_init__()
        if self.first is not None and self.num_experts:
            fields.refuse(self, {"num_experts": f"0: {self.first.label} takes experts"})

    @property
    def stage(self) -> TaskRouter | None:
        """The first stage; None where all experts of the library are taken."""
        if self.first is None and self.num_experts:
            return strategies.Retrieved(num_experts=self.num_experts)
        return self.first

    @property
    def reads_votes(self) -> bool:
        """Whether the first stage reads votes or vectors."""
        return self.stage is not None and self.stage.reads_votes

    @property
    def scores_rows(self) -> bool:
        """Whether the first stage scores experts itself."""
        return self.stage is not None and self.stage.scores_rows

    @property
    def reads_inputs(self) -> bool:
        """Whether the first stage scores experts on inputs."""
        return self.stage is not None and self.stage.reads_inputs

    @property
    def reads_labels(self) -> bool:
        """Whether the first stage chooses by labels of the rows that ask."""
        return self.stage is not None and self.stage.reads_labels

    @property
    def needs_choices(self) -> bool:
        """Whether the first stage compares answer choices."""
        return self.stage is not None and self.stage.needs_choices

    def looks_at(self, question: queries.Question) -> Collection[str]:
        """Returns the experts at which the first stage looks."""
        return () if self.stage is None else self.stage.looks_at(question)

    def num_looked_at(self, num_experts: int) -> int:
        """Returns how many these are at most."""
        return 0 if self.stage is None else self.stage.num_looked_at(num_experts)

    def num_taken(self, num_experts: int) -> int:
        """Returns how many of a library's experts are taken at most."""
        return num_experts if self.stage is None else self.stage.num_taken(num_experts)

    def pick(self, question: queries.Question) -> Choice:
        """Returns the experts, by name, with their weights in the first stage.

        Raises:
          ConfigError: It merges experts otherwise than by a mean.
        """
        if self.stage is None:
            return Choice(tuple(sorted(question.experts)))
        choice = self.stage.pick(question)
        if not choice.experts:
            return choice
        pairs = sorted(zip(choice.experts, weights(choice), strict=True))
        names, stage_weights = zip(*pairs, strict=True)
        return Choice(names, averages.Weighted(weights=stage_weights))


def weights(choice: Choice) -> tuple[float, ...]:
    """Returns the weights of a choice that is a mean of experts; their sum is 1.

    Raises:
      ConfigError: It is another merge.
    """
    method, number = choice.method, len(choice.experts)
    if isinstance(method, averages.Weighted) and method.weights:
        total = math.fsum(method.weights)
        return tuple(weight / total for weight in method.weights)
    if isinstance(method, averages.Uniform | averages.RunningMean | averages.Weighted):
        return (1 / number,) * number
    raise errors.ConfigError(
        found=f"a first stage that merges experts by {method.name}",
        expected="one that takes experts, or their mean",
        do="Leave its method out, or take @averages.Weighted()",
    )
