"""The strategies that there are: the base, an expert, what a library gives."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from elm_jax import errors, fields, paths
from elm_jax.evaluation import results
from elm_jax.library import retrieval
from elm_jax.merging import averages, noise
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import candidates, queries, routers
from elm_jax.runs import measuring as measuring_lib
from elm_jax.runs.strategy import (
    Choice,
    LibraryStrategy,
    Strategy,
    Target,
    number_word,
    options_of,
)
from elm_jax.runs.task_router import Ranked, TaskRouter, shares, weighed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base(Strategy):
    """The base alone."""

    kind: ClassVar[str] = "base"

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the base."""
        return candidates.Candidate("base", strategy=self.kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expert(Strategy):
    """One expert on all tasks; the same as naming it among `Evaluate.experts`.

    Attributes:
      path: The expert's folder.
    """

    kind: ClassVar[str] = "expert"
    path: paths.Path

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the expert, under its own name."""
        (candidate,) = candidates.of_experts([target.path(self.path)])
        return candidate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieved(TaskRouter):
    """RoE: the experts that the queries ask for, averaged if they are several.

    Attributes:
      num_experts: How many; fewer where fewer are asked for.
      by: What ranks and weighs them: `votes`, or the summed `similarity` of those
        queries that vote for an expert to the nearest of its keys.
    """

    kind: ClassVar[str] = "retrieved"
    num_experts: fields.Count = 1
    by: retrieval.By = "votes"

    @property
    def default_name(self) -> str:
        """`retrieved`, and what is not as by default."""
        parts = [self.kind]
        parts += [f"top{self.num_experts}"] if self.num_experts > 1 else []
        parts += [f"by_{self.by}"] if self.by != "votes" else []
        return "_".join(parts)

    @property
    def note(self) -> str:
        """What it is; of one expert by votes the report says how many voted."""
        if self == dataclasses.replace(Retrieved(), name=self.name):
            return ""
        if self.num_experts == 1:
            return self.noted(f"RoE: the expert with the greatest {self.by}")
        number = number_word(self.num_experts)
        return self.noted(
            f"mean of at most {number} experts, those with most {self.by}, as weights"
        )

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns the experts that are asked for, with votes or similarity."""
        return question.result.ranked(self.by)

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, with their weights."""
        return weighed(first_pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeTopK(TaskRouter):
    """A merge of the experts that the queries ask for, by any method, saved nowhere.

    Attributes:
      num_experts: How many; fewer where fewer are asked for.
      method: How they are merged.
      by: What ranks them, as for `Retrieved`.
      weigh: Whether the method is given weights: what ranks them, divided by its sum
        where not only ratios count.
      measuring: On which rows of its own tasks each expert is measured, for a method
        that needs statistics, such as `@regression.RegMean()`.
    """

    kind: ClassVar[str] = "merged_top_k"
    num_experts: fields.Count = 3
    method: MergeMethod = averages.Uniform()
    by: retrieval.By = "votes"
    weigh: bool = False
    measuring: measuring_lib.Measuring | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for weights or statistics that the method cannot have."""
        super().__post_init__()
        measuring_lib.check(self.method, self.measuring)
        if self.weigh:
            self.method.with_weights([1.0] * self.num_experts)

    @property
    def default_name(self) -> str:
        """`merged_top3`, and what is not as by default."""
        parts = [f"merged_top{self.num_experts}"]
        parts += [self.method.name] if self.method != averages.Uniform() else []
        parts += [f"by_{self.by}"] if self.by != "votes" else []
        return "_".join([*parts, *(["weighted"] if self.weigh else [])])

    @property
    def note(self) -> str:
        """Describes the strategy in a few words, for tables and reports."""
        number = number_word(self.num_experts)
        merge_name = f"{self.method.name} merge of at most {number} experts, those with"
        merge_name += f" most {self.by}"
        options = options_of(self.method)
        settings = ", ".join(f"{name} {value}" for name, value in options.items())
        weighting = ["weighted by them"] if self.weigh else []
        return self.noted(", ".join(filter(None, [merge_name, settings, *weighting])))

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns the experts that are asked for, with votes or similarity."""
        return question.result.ranked(self.by)

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, and the method."""
        names = tuple(name for name, _ in first_pairs)
        method = self.method
        if self.weigh:
            weights = [number for _, number in first_pairs]
            if not method.only_ratios:
                weights = shares(first_pairs)
            method = method.with_weights(weights)
        return Choice(names, method, self.measuring)

    def _told_options(self) -> dict[str, Any]:
        # Not as where sums had the votes themselves: rows of both are not mixed.
        has_shares = self.weigh and not self.method.only_ratios
        return super()._told_options() | ({"weights": "shares"} if has_shares else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeAll(LibraryStrategy):
    """A control: a merge of all experts of the library, whatever the queries say.

    Attributes:
      method: How they are merged; the mean, of which one is in memory at a time.
      measuring: On which rows of its own tasks each expert is measured, for a method
        that needs statistics.
    """

    kind: ClassVar[str] = "merged_all"
    method: MergeMethod = averages.RunningMean()
    measuring: measuring_lib.Measuring | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for statistics that the method cannot have."""
        super().__post_init__()
        measuring_lib.check(self.method, self.measuring)

    @property
    def default_name(self) -> str:
        """`merged_all`, and the method if it is not the mean."""
        is_mean = self.method == averages.RunningMean()
        return self.kind if is_mean else f"{self.kind}_{self.method.name}"

    @property
    def note(self) -> str:
        """Describes the strategy in a few words, for tables and reports."""
        if self.method == averages.RunningMean():
            return "the mean of all experts of the library"
        return f"{self.method.name} merge of all experts of the library"

    @property
    def reads_votes(self) -> bool:
        """False: no votes are counted."""
        return False

    @property
    def merges(self) -> bool:
        """True: it merges experts."""
        return True

    def pick(self, question: queries.Question) -> Choice:
        """Returns all experts, by name."""
        return Choice(tuple(sorted(question.experts)), self.method, self.measuring)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomWeights(LibraryStrategy):
    """A control: noise as great as what the retrieved expert changes, in its place.

    Attributes:
      random_seed: The seed of the noise.
    """

    kind: ClassVar[str] = "random_weights"
    random_seed: fields.Seed = 0

    @property
    def default_name(self) -> str:
        """`random_weights`, and the seed if it is not 0."""
        return f"{self.kind}_{self.random_seed}" if self.random_seed else self.kind

    @property
    def note(self) -> str:
        """Describes the strategy in a few words, for tables and reports."""
        return "noise of the shapes and norms of the expert with most votes"

    def pick(self, question: queries.Question) -> Choice:
        """Returns the first expert, and the method that replaces it by noise."""
        (name, _), *_ = question.result.ranked("votes")
        return Choice((name,), noise.Noise(random_seed=self.random_seed))


NAMED: Mapping[str, Strategy] = {
    "base": Base(),
    "retrieved": Retrieved(),
    "merged_top3": MergeTopK(),
    "merged_all": MergeAll(),
    "random_weights": RandomWeights(),
    "by_log_prob": routers.ByBehaviour(),
}
"""Those that gin files may name by a text alone."""


def of(strategies: Sequence[Strategy | str]) -> tuple[Strategy, ...]:
    """Returns strategies as values, also those that a text names.

    Raises:
      ConfigError: One is unknown, or two bear one name.
    """
    labels: dict[str, Strategy] = {}
    for entry in strategies:
        if isinstance(entry, str) and entry not in NAMED:
            raise errors.ConfigError(
                found=f"strategy {entry!r}",
                expected=f"one of {', '.join(NAMED)}, or a value such as"
                " @strategies.MergeTopK()",
                do=errors.did_you_mean(entry, NAMED),
            )
        strategy = NAMED[entry] if isinstance(entry, str) else entry
        label = f"{strategy}"
        if isinstance(strategy, LibraryStrategy):
            label = strategy.label
        is_view = label in results.VIEWS or label.endswith("_crossfit")
        if is_view or label in ("base", "multitask"):
            raise errors.ConfigError(
                found=f"a strategy {label!r}: {strategy}",
                expected="a name that reports do not use for something else",
                do="Give it another name",
            )
        if labels.setdefault(label, strategy) != strategy:
            raise errors.ConfigError(
                found=f"two strategies {label!r}: {labels[label]} and {strategy}",
                expected="one for each name: rows of both would be mixed",
                do="Give one of them another name",
            )
    return tuple(labels.values())


def check_is_asked(
    strategies: Sequence[Strategy], library_queries: queries.Queries | None
) -> None:
    """Raises ConfigError if a needed library is not asked, or one is asked in vain."""
    is_asked = library_queries is not None
    if any(strategy.needs_library for strategy in strategies) == is_asked:
        return
    raise errors.ConfigError(
        found=f"strategies {strategies} {'with' if is_asked else 'without'} a"
        " retrieval",
        expected="a retrieval just for strategies that ask a library",
        do="Set retrieval = @queries.Queries(), or leave it out",
    )
