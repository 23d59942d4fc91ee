"""Strategies that route a whole task by the keys of a library, but not as RoE does."""

import dataclasses
from typing import ClassVar, Literal

from elm_jax import fields
from elm_jax.library import retrieval, voting
from elm_jax.runs import queries
from elm_jax.runs.strategy import Choice
from elm_jax.runs.task_router import Ranked, TaskRouter, weighed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByKeys(TaskRouter):
    """The experts of which rows that ask have several near keys, or a near mean.

    Attributes:
      how: `nearest`: each row has a say for several keys; `means`: the mean of an
        expert's keys is compared with that of the rows, by their cosine.
      num_nearest: Of `nearest`: for how many keys; with 1 it is RoE.
      by: Of `nearest`: whether keys have one vote each, or their `similarity`.
      num_experts: How many experts are taken; of several, the mean, weighed by what
        ranks them. Fewer where fewer have a value above 0.
    """

    kind: ClassVar[str] = "by_keys"
    how: Literal["nearest", "means"] = "nearest"
    num_nearest: fields.Count = 5
    by: retrieval.By = "votes"
    num_experts: fields.Count = 1

    @property
    def default_name(self) -> str:
        """`by_5_nearest_keys` or `by_mean_key`, and what is not as by default."""
        parts = ["by_mean_key"]
        if self.how == "nearest":
            parts = [f"by_{self.num_nearest}_nearest_keys"]
            parts += [f"by_{self.by}"] if self.by != "votes" else []
        parts += [f"top{self.num_experts}"] if self.num_experts > 1 else []
        return "_".join(parts)

    @property
    def note(self) -> str:
        """Describes the router in a few words, for tables and reports."""
        rule = "likest by the mean of their keys"
        if self.how == "nearest":
            rule = f"with most {self.by} of the {self.num_nearest} nearest keys"
        if self.num_experts > 1:
            text = f"mean of the {self.num_experts} experts {rule}, weighted so"
            return self.noted(text)
        return self.noted(f"the expert {rule}")

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, with their weights."""
        above = tuple(pair for pair in first_pairs if pair[1] > 0)
        return weighed(above or first_pairs[:1])

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns all experts, with their votes, similarity, or the cosine of means."""
        opened, vectors = question.opened, question.vectors
        assert opened is not None  # noqa: S101 - `Queries.ask` gives it
        assert vectors is not None  # noqa: S101 - likewise
        experts = [*question.experts]
        if self.how == "means":
            return voting.ranked_by_means(opened, vectors, experts=experts)
        return voting.ranked(
            opened, vectors, num_nearest=self.num_nearest, by=self.by, experts=experts
        )
