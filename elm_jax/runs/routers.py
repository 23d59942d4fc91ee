"""Strategies that route a whole task to experts by other than the paper's votes."""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import ClassVar

import numpy as np
from scipy import special

from elm_jax import fields
from elm_jax.evaluation import answers, rank_classification
from elm_jax.library import retrieval, sampling
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.routing import behaviour, halving, texts
from elm_jax.runs import measuring, queries
from elm_jax.runs.strategy import Choice, options_of
from elm_jax.runs.task_router import Ranked, TaskRouter, weighed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByBehaviour(TaskRouter):
    """The experts that answer unlabelled rows most confidently, by a statistic.

    Attributes:
      statistic: What is greatest for them, of the log-probabilities that they give to
        the answer choices of the rows that ask, or, where these have none, to the
        answers that they write themselves; see `routing.behaviour`.
      num_experts: How many are taken; of several, a merge, saved nowhere.
      method: How they are merged.
      weigh: Whether the method is given weights: the softmax of the statistic.
      temperature: Of this softmax, in nats.
      among: Only so many experts are looked at, those that `by` ranks first; 0 for
        all. Where queries ask for fewer, these.
      by: What ranks them, as for `strategies.Retrieved`.
      least: Of the statistic, in nats. With `gain`, 0 says that the best answers are no
        less likely than under the base. With those that `behaviour.BELOW_0` lists it
        must be below 0.
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
        measuring.check(self.method, None)
        if self.weigh:
            self.method.with_weights([1.0] * self.num_experts)

    @property
    def default_name(self) -> str:
        """`by_log_prob`, and what else is not as by default."""
        parts = [f"by_{self.statistic}"]
        parts += [f"top{self.num_experts}"] if self.num_experts > 1 else []
        parts += [self.method.name] if self.method != averages.Uniform() else []
        parts += ["weighted"] if self.weigh else []
        parts += [f"of_{self.among}"] if self.among else []
        parts += [self.by] if self.by != "votes" else []
        return "_".join(parts)

    @property
    def note(self) -> str:
        """Describes the router in a few words, for tables and reports."""
        choice = "the expert"
        if self.num_experts > 1:
            choice = f"{self.method.name} merge of at most {self.num_experts} experts,"
            choice += " those"
        parts = [f"{choice} with the greatest {self.statistic} of answers, no labels"]
        options = options_of(self.method) | ({"weighted": True} if self.weigh else {})
        parts += [f"{name} {value}" for name, value in options.items()]
        parts += [f"among {self.among} by {self.by}"] if self.among else []
        return self.noted(", ".join(parts))

    @property
    def ranks_below_0(self) -> bool:
        """Whether the statistic is a log-probability, or minus an entropy."""
        return self.statistic in behaviour.BELOW_0

    @property
    def needs_choices(self) -> bool:
        """Whether the statistic compares answers.

        Of answers that experts write there are the mean log-probability, and that by
        token. Both prefer experts that write a word or two: compare keys instead.
        """
        return self.statistic not in behaviour.OF_WRITTEN

    @property
    def reads_votes(self) -> bool:
        """Whether votes tell at which experts it looks."""
        return bool(self.among)

    def looks_at(self, question: queries.Question) -> Collection[str]:
        """Returns the experts among which it chooses."""
        if not self.among:
            return question.experts
        first_pairs = question.result.ranked(self.by)[: self.among]
        return [name for name, _ in first_pairs]

    def num_looked_at(self, num_experts: int) -> int:
        """Returns all, or so many as it looks at."""
        return min(num_experts, self.among or num_experts)

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns the experts that it looked at, with the statistic.

        Raises:
          DataError: The statistic needs rows with two answers, and there is none.
        """
        assert question.behaviour is not None  # noqa: S101 - it looks at experts
        return question.behaviour.ranked(self.statistic, self.looks_at(question))

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, and the method."""
        names, values = zip(*first_pairs, strict=True)
        method = self.method
        if self.weigh and len(names) > 1:
            weights = behaviour.weights(values, temperature=self.temperature)
            method = method.with_weights(weights)
        return Choice(names, method if len(names) > 1 else averages.Uniform())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByWords(TaskRouter):
    """RoE by words: each row that asks votes for the key with the likest text, by BM25.

    A row that shares no word with any key has no vote. Where none has, no expert is
    ranked: an evaluation says so, or takes the base if it `abstains`.

    Attributes:
      num_experts: How many are taken; of several, the mean, weighed by votes. Fewer
        where fewer have votes.
    """

    kind: ClassVar[str] = "by_words"
    num_experts: fields.Count = 1

    @property
    def default_name(self) -> str:
        """`by_words`, and how many if they are several."""
        several = f"_top{self.num_experts}" if self.num_experts > 1 else ""
        return f"{self.kind}{several}"

    @property
    def note(self) -> str:
        """Describes the router in a few words, for tables and reports."""
        if self.num_experts == 1:
            return self.noted("the expert whose keys' texts are likest by BM25")
        number = self.num_experts
        return self.noted(f"mean of the {number} experts likest by BM25, weighted so")

    @property
    def reads_votes(self) -> bool:
        """False: it compares texts."""
        return False

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns the experts that have votes, with these; () without shared words."""
        return texts.votes(question.key_texts(), question.query_texts())

    def take(self, first_pairs: Ranked) -> Choice:
        """Returns the first experts, with their weights."""
        return weighed(tuple((name, float(votes)) for name, votes in first_pairs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByHalving(TaskRouter):
    """The experts that are best on labelled rows, found by successive halving.

    It reads the labels of the rows that ask the library. These are never scored, so no
    reported row chooses. See `routing.halving`.

    Attributes:
      first_rows: On how many rows all experts are scored. With as many as ask it is the
        best on all of them.
      random_seed: Of the order of the rows.
      num_experts: How many are taken; of several, the mean.
    """

    kind: ClassVar[str] = "by_halving"
    first_rows: fields.Count = 8
    random_seed: fields.Seed = 0

    @property
    def default_name(self) -> str:
        """`by_halving_from_8`, and how many if they are several."""
        label = f"{self.kind}_from_{self.first_rows}"
        return f"{label}_top{self.num_experts}" if self.num_experts > 1 else label

    @property
    def note(self) -> str:
        """Describes the router in a few words, for tables and reports."""
        number = self.num_experts
        choice = f"mean of the {number}" if number > 1 else "the"
        rows = f"labelled rows that ask, halved from {self.first_rows} rows"
        return self.noted(f"{choice} best on {rows}")

    @property
    def reads_votes(self) -> bool:
        """False: no votes are counted."""
        return False

    @property
    def scores_rows(self) -> bool:
        """True: experts are scored on rows."""
        return True

    @property
    def reads_labels(self) -> bool:
        """True: the right answers of rows that ask are read."""
        return True

    @property
    def needs_choices(self) -> bool:
        """True: experts are compared by their right answers."""
        return True

    def num_looked_at(self, num_experts: int) -> int:
        """Returns the number of all experts, the most that it scores."""
        return num_experts

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns all experts, with the share of right answers to the rows they saw.

        Those that stayed longer go before others, whatever the shares.
        """
        order = sampling.order_rows(len(question.rows), seed=self.random_seed)
        halved = halving.halve(
            [*question.experts],
            [question.rows[place] for place in order],
            functools.partial(_right_answers, question),
            first_rows=self.first_rows,
        )
        return tuple(zip(halved.order, halved.shares, strict=True))


def _right_answers(
    question: queries.Question, names: Sequence[str], rows: Sequence[int]
) -> np.ndarray:
    """Returns what `halving.ScoreFn` does, by the labels of rows.

    Choices of one text are one answer, and ties count as when tasks are scored.
    """
    assert question.score_rows is not None  # noqa: S101 - it says that it scores rows
    examples = [question.dataset[row] for row in rows]
    numbers = [answers.number(example.choices_text) for example in examples]
    labels = np.array([example.label for example in examples])
    credits_and_shares = []
    for expert_scores in question.score_rows(names, rows):
        scores = [np.array(of_row) for of_row in expert_scores]
        outcome = rank_classification.RankOutcome(
            example_ids=np.array(rows),
            labels=labels,
            predictions=np.array([of_row.argmax() for of_row in scores]),
            scores=tuple(scores),
            answers=tuple(numbers),
        )
        shares = []
        for of_row, number, label in zip(scores, numbers, labels, strict=True):
            firsts = np.unique(number, return_index=True)[1]
            shares.append(special.softmax(of_row[firsts])[number[label]])
        credits_and_shares.append((outcome.credit, shares))
    return np.array(credits_and_shares).swapaxes(0, 1)
