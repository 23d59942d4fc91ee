"""Strategies that route a whole task to experts by other than the paper's votes."""

import dataclasses
from collections.abc import Collection
from typing import ClassVar

from elm_jax import fields
from elm_jax.library import retrieval
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.routing import behaviour
from elm_jax.runs import queries
from elm_jax.runs.strategy import Choice, LibraryStrategy, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByBehaviour(LibraryStrategy):
    """The experts that answer the unlabelled rows as one who knows them would.

    Attributes:
      statistic: What is greatest for them, of the log-probabilities that they give to
        the answer choices of the rows that ask; see `routing.behaviour`.
      num_experts: How many are taken; of several, a merge, saved nowhere.
      method: How they are merged.
      weigh: Whether the method is given weights: the softmax of the statistic.
      temperature: Of this softmax, in nats.
      among: Only so many experts are looked at, those that `by` ranks first; 0 for
        all. Where queries ask for fewer, these.
      by: What ranks them, as for `strategies.Retrieved`.
    """

    kind: ClassVar[str] = "by_behaviour"
    statistic: behaviour.Statistic = "log_prob"
    num_experts: fields.Count = 1
    method: MergeMethod = averages.Uniform()
    weigh: bool = False
    temperature: fields.Scale = 1.0
    among: fields.CountOrNone = 0
    by: retrieval.By = "votes"

    def __post_init__(self) -> None:
        """Raises ConfigError for weights where the method takes none."""
        super().__post_init__()
        if self.weigh:
            self.method.with_weights([1.0] * self.num_experts)

    @property
    def default_name(self) -> str:
        """`by_log_prob`, and what else is not as by default."""
        parts = [f"by_{self.statistic}"]
        parts += [f"top{self.num_experts}"] if self.merges else []
        parts += [self.method.name] if self.method != averages.Uniform() else []
        parts += ["weighted"] if self.weigh else []
        parts += [f"of_{self.among}"] if self.among else []
        return "_".join([*parts, *([self.by] if self.by != "votes" else [])])

    @property
    def note(self) -> str:
        """What it is."""
        what = "the expert"
        if self.merges:
            what = f"{self.method.name} merge of the {self.num_experts} experts"
        parts = [f"{what} with the greatest {self.statistic} of answers, no labels"]
        told = options_of(self.method) | ({"weighted": True} if self.weigh else {})
        parts += [f"{name} {value}" for name, value in told.items()]
        parts += [f"among {self.among} by {self.by}"] if self.among else []
        return ", ".join(parts)

    @property
    def merges(self) -> bool:
        """Whether it may take several experts."""
        return self.num_experts > 1

    def looks_at(self, question: queries.Question) -> Collection[str]:
        """Returns the experts among which it chooses."""
        if not self.among:
            return question.experts
        first = question.result.ranked(self.by)[: self.among]
        return [name for name, _ in first]

    def num_looked_at(self, num_experts: int) -> int:
        """Returns all, or so many as it looks at."""
        return min(num_experts, self.among or num_experts)

    def pick(self, question: queries.Question) -> Choice:
        """Returns the first experts, and the method.

        Raises:
          DataError: The statistic needs rows with two answers, and there is none.
        """
        assert question.behaviour is not None  # noqa: S101 - it looks at experts
        among = self.looks_at(question)
        order = question.behaviour.ranked(self.statistic, among)[: self.num_experts]
        names, values = zip(*order, strict=True)
        method = self.method
        if self.weigh and len(names) > 1:
            given = behaviour.weights(values, temperature=self.temperature)
            method = method.with_weights(given)
        return Choice(names, method if len(names) > 1 else averages.Uniform())
