"""How long routers take for the rows of a task that ask, measured.

What a library keeps is not used: experts are scored anew, as for a task that asks for
the first time. Each, embedding too, is done twice and the second one counts, so that
programs are compiled and files are in memory.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from elm_jax.data import token_store
from elm_jax.peft import adapters
from elm_jax.runs import candidates, loaded, queries, scorer
from elm_jax.runs.strategy import LibraryStrategy, Target
from elm_jax.types import Params


class Times(NamedTuple):
    """Seconds a task, by the clock.

    Attributes:
      choosing: To embed the rows that ask and find their nearest keys if the router
        reads votes or vectors, to score experts on them if it looks at these, to
        choose, and to load and merge.
      answering: To rank the answers of these rows by what was chosen, each expert of
        a pool for itself.
    """

    choosing: float
    answering: float


def measure(
    strategies: Iterable[LibraryStrategy],
    targets: Sequence[Target],
    program: scorer.Scorer,
    base: loaded.Base,
) -> dict[str, Times]:
    """Returns the times of each router by its label, means over tasks.

    Args:
      strategies: The routers.
      targets: Tasks with choices, their questions, and the behaviour in these that
        routers look at; without any nothing is measured.
      program: The program that scores.
      base: Of the experts.
    """
    clocks = [_Clock(target, program, base) for target in targets]
    times: dict[str, Times] = {}
    for strategy in strategies if clocks else ():
        of_tasks = [clock.times(strategy) for clock in clocks]
        times[strategy.label] = Times(
            *map(statistics.mean, zip(*of_tasks, strict=True))
        )
    return times


class _Clock:
    def __init__(
        self, target: Target, program: scorer.Scorer, base: loaded.Base
    ) -> None:
        assert target.question is not None  # noqa: S101 - routers ask a library
        self._question = self._scored_anew(target.question)
        self._target = target._replace(question=self._question)
        self._program, self._base = program, base
        self._looking: dict[tuple[str, ...], float] = {}  # seconds, by experts

    def _scored_anew(self, question: queries.Question) -> queries.Question:
        """Returns a question that scores its rows at each request, from no cache."""
        score = functools.partial(self._score, question.dataset)
        span_question = question.missing_spans
        if span_question is not None:
            return question._replace(
                score_rows=score,
                missing_spans=lambda seed: self._scored_anew(span_question(seed)),
            )
        return question._replace(score_rows=score)

    def times(self, strategy: LibraryStrategy) -> Times:
        """Returns what a router takes."""
        looking = self._look(tuple(sorted(strategy.looks_at(self._question))))
        choosing = _seconds(lambda: self._load_all(strategy.choose(self._target)))
        models = self._load_all(strategy.choose(self._target))
        dataset, rows = self._question.dataset, self._question.rows
        answering = _seconds(
            lambda: [self._rank(model, dataset, rows) for model in models]
        )
        asking = self._asking if strategy.reads_votes else 0.0
        return Times(asking + looking + choosing, answering)

    @functools.cached_property
    def _asking(self) -> float:
        """The seconds to embed the rows that ask and to find their nearest keys."""
        assert self._question.ask_again is not None  # noqa: S101 - `Queries.ask` gives it
        return _seconds(self._question.ask_again)

    def _look(self, names: tuple[str, ...]) -> float:
        """Returns the seconds to score the base and some experts; 0 for none."""
        if not names:
            return 0.0
        if names not in self._looking:
            dataset, rows = self._question.dataset, self._question.rows

            def look() -> None:
                self._score(dataset, names, rows)
                self._rank(self._load(candidates.Candidate("base")), dataset, rows)

            self._looking[names] = _seconds(look)
        return self._looking[names]

    def _load_all(
        self, candidate: candidates.Candidate
    ) -> list[tuple[Params, adapters.AnySpec | None]]:
        return [self._load(model) for model in candidate.models]

    def _load(
        self, candidate: candidates.Candidate
    ) -> tuple[Params, adapters.AnySpec | None]:
        params, adapter = candidate.load(self._base)
        return self._program.place(params), adapter

    def _score(
        self,
        dataset: token_store.TokenizedDataset,
        names: Sequence[str],
        rows: Sequence[int],
    ) -> list[list[list[float]]]:
        """Returns what `queries.ScoreRows` does."""
        folders = [self._question.experts[name] for name in names]
        experts = candidates.of_experts(folders)
        return [self._rank(self._load(expert), dataset, rows) for expert in experts]

    def _rank(
        self,
        model: tuple[Params, adapters.AnySpec | None],
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> list[list[float]]:
        outcome = self._program.rank(*model, [dataset[row] for row in rows])
        return [scores.tolist() for scores in outcome.scores]


def _seconds(work: Callable[[], object]) -> float:
    """Returns what the second of two times takes."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
