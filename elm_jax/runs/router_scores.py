"""What the choices of routers score, by result rows of the very parameters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results, statistics
from elm_jax.runs import (
    candidates,
    comparable_rows,
    queries,
    routed_candidate,
    router_entropy,
    routers,
)

Choices = Mapping[str, candidates.Candidate]
"""What a router chose, by task."""


class Scored(NamedTuple):
    """What a router chose, on all tasks.

    Attributes:
      rows: Of what it chose, where that was scored.
      lacking: Tasks on which it was not.
      names: The expert of each task for which it chose one; of a token router, the
        one with the greatest mean weight, where that was kept with the score.
      spreads: Of the weights of each task, as far as they are known.
    """

    rows: Sequence[results.ResultRow]
    lacking: Sequence[str]
    names: Mapping[str, str]
    spreads: Sequence[float]


class Scores:
    """Scores of parameters, by fingerprint, on the tasks that asked one library.

    Attributes:
      tasks: Those that asked.
      split: Of the rows.
      base: What the base scores.
      experts: What each expert scores, by name.
      best: The best experts of each task, by these very rows.
      trained: Of each task the experts that were trained on it, if there are any.

    Args:
      reported: Has the rows of these tasks.
      questions: Of the tasks, with the behaviour that routers look at.
      split: Of the rows.
      metric: Of the rows.

    Raises:
      DataError: The base or an expert lacks a score on a task, two were scored on
        different rows of it, or a row that asks was scored as well.
    """

    def __init__(
        self,
        reported: comparable_rows.ComparableRows,
        questions: Sequence[queries.Question],
        split: str,
        metric: str,
    ) -> None:
        self._store, self._questions, self.split = reported.store, questions, split
        rows = reported.all.where(split=split, metric=metric)
        self._rows = {(row.expert_fingerprint, row.task): row for row in rows}
        self._asking = {
            q.task: {q.dataset[place].example_id for place in q.rows}
            for q in questions
            if q.dataset.split == split
        }
        self._ids: dict[str, np.ndarray] = {}  # of the base's rows, by task
        folders = {n: f for q in questions for n, f in q.experts.items()}
        base = candidates.Candidate("base")
        expert_candidates = candidates.of_experts([*folders.values()])
        self.tasks = [question.task for question in questions]
        check_scored(reported, [base, *expert_candidates], self.tasks, split, metric)
        self.base = self.of(dict.fromkeys(self.tasks, base))
        experts = dict(zip(folders, expert_candidates, strict=True))
        trained = {
            task: {n for n, c in experts.items() if task in c.manifests[0].tasks}
            for task in self.tasks
        }
        self.trained = {task: names for task, names in trained.items() if names}
        self.experts = {
            name: self.of(dict.fromkeys(self.tasks, expert))
            for name, expert in experts.items()
        }
        self.best = self._best()

    def _check_rows(self, row: results.ResultRow) -> None:
        """Raises DataError for rows that ask, or that the base was not scored on."""
        ids = self._store.per_example(row, only=("example_ids",))["example_ids"]
        if self._asking.get(row.task, set()) & {*np.asarray(ids).tolist()}:
            raise errors.DataError(
                found=f"rows of {row.task} that ask and are scored, for {row.expert}",
                expected="scores of other rows than those that ask",
                do="Score with this retrieval, or ask as that evaluation did",
            )
        of_base = self._ids.setdefault(row.task, np.sort(ids))
        if not np.array_equal(of_base, np.sort(ids)):
            raise errors.DataError(
                found=f"{row.expert} on {len(ids)} rows of {row.task} {row.split}, and"
                f" the base on {len(of_base)} that are not the same",
                expected="all scored on the same rows of a task",
                do="Score them with one max_examples and random_seed, or into another"
                " result file",
            )

    def of(self, choices: Choices) -> Scored:
        """Returns what a router's choices score; raises DataError as the class."""
        rows, lacking, spreads, names = [], [], [], {}
        for task, candidate in choices.items():
            row = self._rows.get((candidate.fingerprint, task))
            if row is None:
                lacking.append(task)
            else:
                self._check_rows(row)
                rows.append(row)
            if len(candidate.manifests) == 1 and not candidate.is_merged:
                names[task] = candidate.manifests[0].name
            elif isinstance(candidate, routed_candidate.RoutedCandidate):
                trace = router_entropy.trace(row, self._store)
                if trace is not None and trace.heaviest:
                    names[task] = trace.heaviest
            entropy = router_entropy.of(candidate, row, self._store)
            spreads += [] if entropy is None else [entropy]
        return Scored(rows, lacking, names, spreads)

    def columns(self, scored: Scored) -> statistics.Columns:
        """Returns the scores of each row."""
        return statistics.columns(scored.rows, self._store.per_example)

    def _best(self) -> dict[str, set[str]]:
        values = {
            name: {row.task: row.value for row in scored.rows}
            for name, scored in self.experts.items()
        }
        greatest = {
            task: max(of_tasks[task] for of_tasks in values.values())
            for task in self.tasks
        }
        return {
            task: {name for name, of_tasks in values.items() if of_tasks[task] == value}
            for task, value in greatest.items()
        }

    @property
    def oracle(self) -> Scored:
        """The scores of the best expert of each task; of several, the first by name."""
        firsts = {task: min(names) for task, names in self.best.items()}
        rows_of = {n: {r.task: r for r in c.rows} for n, c in self.experts.items()}
        rows = [rows_of[name][task] for task, name in firsts.items()]
        return Scored(rows, [], firsts, [0.0] * len(rows))

    def losses(
        self, router: routers.ByBehaviour
    ) -> tuple[Sequence[float], Sequence[float]]:
        """Returns of each task a router's statistic, and 1 where its expert is no gain.

        Args:
          router: Which chooses one expert.
        """
        base = {row.task: row.value for row in self.base.rows}
        values, losses = [], []
        for question in self._questions:
            assert question.behaviour is not None  # noqa: S101 - it looked at experts
            among = router.looks_at(question)
            name, value = question.behaviour.ranked(router.statistic, among)[0]
            scores = {row.task: row.value for row in self.experts[name].rows}
            values.append(value)
            losses.append(float(scores[question.task] <= base[question.task]))
        return values, losses


def check_scored(
    reported: comparable_rows.ComparableRows,
    everyone: Sequence[candidates.Candidate],
    tasks: Sequence[str],
    split: str,
    metric: str,
) -> None:
    """Raises DataError if the base or an expert has no score on a task.

    Args:
      reported: Has the rows of these tasks.
      everyone: The base, and all experts.
      tasks: That ask.
      split: Of the rows.
      metric: Of the rows.
    """
    rows = reported.all.where(split=split, metric=metric)
    scored = rows.distinct("expert_fingerprint", "task")
    for candidate in everyone:
        mark = candidate.fingerprint
        lacking = [task for task in tasks if (mark, task) not in scored]
        if lacking:
            more = f" (and {len(lacking) - 1} other tasks)" if lacking[1:] else ""
            raise errors.DataError(
                found=f"no score of {candidate.name} on {lacking[0]} {split}{more}, in"
                f" {reported.store.path}",
                expected="one of the base and of each expert of the library, on each"
                " task that asks",
                do="Score it by elm_eval, with this base and random_seed",
            )
