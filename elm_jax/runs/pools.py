"""A strategy that pools the answers of experts, instead of choosing or merging them."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

from elm_jax import errors, fields
from elm_jax.checkpoints import manifest
from elm_jax.model import config
from elm_jax.routing import behaviour, pooling
from elm_jax.runs import candidates, observed, pooled_candidate, queries
from elm_jax.runs.strategy import Choice, LibraryStrategy, Strategy, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerPool(LibraryStrategy):
    """Answers of experts pooled, weighed by how they answer the unlabelled rows.

    Each expert scores the choices by itself; the weighted sum of their
    log-probabilities decides (`routing.pooling`). It takes as much work as so many
    experts, but for those whose scores of these rows are in the result file already.

    Attributes:
      statistic: What weighs them, as for `routers.ByBehaviour`.
      temperature: Of the softmax that makes weights of it, in nats: near 0 the first
        expert decides alone, and with a great one all have a like say.
      num_experts: How many are taken, those with the greatest statistic; 0 for all.
      among: Only so many experts are looked at, those with most votes; 0 for all.
        Where queries vote for fewer, these.
      calibrates: Whether the mean score of each choice over the rows that ask is taken
        away, where all of them have the same number of choices, and no two alike. A
        few rows tell it badly; there are 32 by default.
    """

    kind: ClassVar[str] = "answer_pool"
    statistic: behaviour.Statistic = "mass"
    temperature: fields.Scale = 4.0
    num_experts: fields.CountOrNone = 0
    among: fields.CountOrNone = 0
    calibrates: bool = True

    @property
    def default_name(self) -> str:
        """`pooled_by_mass`, and what else is not as by default."""
        parts = [f"pooled_by_{self.statistic}"]
        parts += [f"top{self.num_experts}"] if self.num_experts else []
        parts += [f"of_{self.among}"] if self.among else []
        is_usual = self.temperature == type(self).temperature
        parts += [] if is_usual else [f"at_{self.temperature:g}"]
        return "_".join(parts + ([] if self.calibrates else ["uncalibrated"]))

    @property
    def note(self) -> str:
        """Describes the pool in a few words, for tables and reports."""
        experts = {0: "all experts", 1: "the first expert"}.get(
            self.num_experts, f"the first {self.num_experts} experts"
        )
        parts = [f"answers of {experts} pooled, weighed by {self.statistic}, no labels"]
        parts += [f"among {self.among} by votes"] if self.among else []
        usual = "calibrated where all rows that ask have the same choices"
        parts.append(usual if self.calibrates else "not calibrated")
        return ", ".join(parts)

    @property
    def needs_choices(self) -> bool:
        """True: the scores of answer choices are pooled."""
        return True

    @property
    def reads_votes(self) -> bool:
        """Whether votes tell at which experts it looks."""
        return bool(self.among)

    def looks_at(self, question: queries.Question) -> Collection[str]:
        """Returns the experts among which it chooses."""
        if not self.among:
            return question.experts
        first_pairs = question.result.ranked("votes")[: self.among]
        return [name for name, _ in first_pairs]

    def num_looked_at(self, num_experts: int) -> int:
        """Returns all, or so many as it looks at."""
        return min(num_experts, self.among or num_experts)

    def costs(self, shape: config.T5Config, infos: Sequence[manifest.Manifest]) -> str:
        """Returns how many models answer, for plans."""
        del shape
        number = self.num_members(len(infos))
        return f"the answers of {number} experts, scored once for all pools"

    def added_share(
        self, shape: config.T5Config, infos: Sequence[manifest.Manifest]
    ) -> float:
        """Returns -1: the pool itself is no model. Its experts are counted apart."""
        del shape, infos
        return -1.0

    def num_members(self, num_experts: int) -> int:
        """Returns how many experts of a library have a say at most."""
        num_looked_at = self.num_looked_at(num_experts)
        return min(num_looked_at, self.num_experts or num_looked_at)

    def pick(self, question: queries.Question) -> Choice:
        """Returns the experts that have a say, the greatest first."""
        return Choice(tuple(self._pool(question).weights))

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the experts with their weights.

        Raises:
          DataError: The statistic needs rows with two answers, and there is none.
        """
        chosen, question = super().choose(target), target.question
        assert question is not None  # noqa: S101 - it needs the library
        pool = self._pool(question)
        values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen)}
        return pooled_candidate.PooledCandidate(
            **values,
            weights=tuple(pool.weights.values()),
            place_means=pool.place_means,
        )

    def _pool(self, question: queries.Question) -> pooling.Pool:
        assert question.behaviour is not None  # noqa: S101 - it looks at experts
        return self.pool_of(question.behaviour, self.looks_at(question))

    def pool_of(
        self, measured: observed.Behaviour, among: Collection[str]
    ) -> pooling.Pool:
        """Returns the pool of some experts by their scores of unlabelled rows.

        Raises:
          DataError: The statistic needs rows with two answers, and there is none.
        """
        names, scores = measured
        assert isinstance(scores, behaviour.ChoiceScores)  # noqa: S101 - `needs_choices`
        return pooling.Pool.of(
            measured.ranked(self.statistic, among)[: self.num_experts or None],
            names,
            scores,
            temperature=self.temperature,
            calibrates=self.calibrates,
        )


def check(
    strategies: Iterable[Strategy],
    race: object | None,
    shard: str,
    length_normalized: bool,
) -> None:
    """Raises ConfigError if an evaluation has a pool and a setting that excludes pools.

    Args:
      strategies: Of the evaluation.
      race: What drops experts before all rows are scored; None for nothing.
      shard: Which part of all candidates is scored; "" for all.
      length_normalized: Whether scores are divided by tokens.
    """
    settings = {
        "a race": race,
        f"shard = {shard!r}": shard,
        "length_normalized = True": length_normalized,
    }
    setting = next((name for name, value in settings.items() if value), "")
    for strategy in strategies:
        if isinstance(strategy, AnswerPool) and setting:
            raise errors.ConfigError(
                found=f"the strategy {strategy.label} with {setting}",
                expected="whole log-probabilities of all rows by each of its experts",
                do="Score it by another evaluation, into the same result file, in which"
                " no expert is scored again",
            )
