"""What the choices of routers score, by result rows of the very parameters."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import estimates, results, statistics
from elm_jax.reporting import report
from elm_jax.routing import abstaining
from elm_jax.runs import (
    candidates,
    comparable_rows,
    queries,
    router_entropy,
    routers,
)

Choices = Mapping[str, candidates.Candidate]
"""What a router chose, by task."""


class _Chosen(NamedTuple):
    """What a router chose, on all tasks.

    Attributes:
      rows: Of what it chose, where that was scored.
      lacking: Tasks on which it was not.
      names: The expert of each task for which it chose one.
      spreads: Of the weights of each task, as far as they are known.
    """

    rows: list[results.ResultRow]
    lacking: list[str]
    names: dict[str, str]
    spreads: list[float]


class Scores:
    """What parameters score on tasks, by their fingerprints.

    Args:
      reported: Has the rows of these tasks.
      questions: Of the tasks, with the behaviour that routers look at.
      split: Of the rows.
      metric: Likewise.

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
        self._store, self._questions = reported.store, questions
        self._split, self._draws = split, estimates.Draws()
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
        named = candidates.of_experts([*folders.values()])
        tasks = [question.task for question in questions]
        check_scored(reported, [base, *named], tasks, split, metric)
        self._base = self._of(dict.fromkeys(tasks, base))
        experts = dict(zip(folders, named, strict=True))
        own = {
            task: {n for n, c in experts.items() if task in c.manifests[0].tasks}
            for task in tasks
        }
        self._own = {task: names for task, names in own.items() if names}
        self._experts = {
            name: self._of(dict.fromkeys(tasks, expert))
            for name, expert in experts.items()
        }

    def _check_rows(self, row: results.ResultRow) -> None:
        """Raises DataError for rows that ask, or others than the base was scored on."""
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

    def _of(self, choice: Choices) -> _Chosen:
        rows, lacking, spreads, names = [], [], [], {}
        for task, one in choice.items():
            row = self._rows.get((one.fingerprint, task))
            if row is None:
                lacking.append(task)
            else:
                self._check_rows(row)
                rows.append(row)
            if len(one.manifests) == 1 and not one.is_merged:
                names[task] = one.manifests[0].name
            entropy = router_entropy.of(one, row, self._store)
            spreads += [] if entropy is None else [entropy]
        return _Chosen(rows, lacking, names, spreads)

    def _estimate(self, rows: Sequence[results.ResultRow]) -> estimates.Estimate:
        columns = statistics.columns(rows, self._store.per_example)
        return estimates.estimate([columns], self._draws, who="library")

    def _best(self) -> dict[str, set[str]]:
        """Returns the best experts of each task."""
        values = {
            name: {row.task: row.value for row in chosen.rows}
            for name, chosen in self._experts.items()
        }
        greatest = {
            q.task: max(of_tasks[q.task] for of_tasks in values.values())
            for q in self._questions
        }
        return {
            task: {name for name, of_tasks in values.items() if of_tasks[task] == value}
            for task, value in greatest.items()
        }

    def table(self, choices: Mapping[str, Choices]) -> report.Figures:
        """Returns the table of all routers.

        Args:
          choices: Of each router, what it chose for each task.
        """
        best, base = self._best(), self._estimate(self._base.rows)
        rows_of = {n: {r.task: r for r in c.rows} for n, c in self._experts.items()}
        firsts = {task: min(names) for task, names in best.items()}
        rows = [rows_of[name][task] for task, name in firsts.items()]
        oracle = _Chosen(rows, [], firsts, [0.0] * len(rows))
        bound = self._estimate(oracle.rows)
        chosen = [
            ("base, no expert", self._base),
            *((label, self._of(choice)) for label, choice in choices.items()),
            ("oracle of these experts", oracle),
        ]
        lines = [(n, tuple(self._figures(c, base, bound, best))) for n, c in chosen]
        random = [self._estimate(expert.rows) for expert in self._experts.values()]
        mean = float(np.mean([score.mean for score in random]))
        gaps = _gaps(random, base, bound)
        lines.insert(1, ("random expert", (mean, *gaps, None, None, None, None)))
        lacking = sum(bool(of_router.lacking) for _, of_router in chosen)
        unscored = (
            f" {lacking} were not scored on all of these tasks." if lacking else ""
        )
        return report.Figures(
            title=f"Routers ({self._split} rows of {len(self._questions)} tasks, %)",
            columns=(
                *("score", "regret", "of the way"),
                *("best chosen", "own chosen", "experts", "spread"),
            ),
            rows=tuple(lines),
            notes=(
                "Means over datasets. Regret, in points, is to the oracle, the best"
                " expert of each task by these very rows, which is too high. Of the"
                f" way: from base to oracle, in percent.{unscored}",
                "best chosen: on how many tasks one of the best experts; own: on how"
                " many of those with experts that were trained on them one of these;"
                " experts: how many different ones; spread: the entropy of the experts'"
                " mean weights, in nats, mean over tasks; of token routers, of weights"
                " averaged over the tokens of those rows whose routes were kept.",
            ),
        )

    def _figures(
        self,
        one: _Chosen,
        base: estimates.Estimate,
        bound: estimates.Estimate,
        best: Mapping[str, set[str]],
    ) -> Iterator[report.Figure]:
        scores = [] if one.lacking else [self._estimate(one.rows)]
        yield scores[0].interval if scores else "not scored"
        yield from _gaps(scores, base, bound)
        for right in (best, self._own):
            hits = sum(one.names.get(task) in names for task, names in right.items())
            yield f"{hits} of {len(right)}" if right and one.names else None
        yield f"{len({*one.names.values()})}" if one.names else None
        yield f"{np.mean(one.spreads):.2f}" if one.spreads else None

    def curve(self, router: routers.ByBehaviour) -> report.Figures:
        """Returns coverage and risk of a router by thresholds of its statistic."""
        base = {row.task: row.value for row in self._base.rows}
        values, losses = [], []
        for question in self._questions:
            assert question.behaviour is not None  # noqa: S101 - it looked at experts
            among = router.looks_at(question)
            name, value = question.behaviour.ranked(router.statistic, among)[0]
            own = {row.task: row.value for row in self._experts[name].rows}
            values.append(value)
            losses.append(float(own[question.task] <= base[question.task]))
        rows = tuple(
            (f"{one.least:.4g}", (f"{one.coverage:.0%}", f"{one.risk:.0%}"))
            for one in abstaining.curve(values, losses)
        )
        return report.Figures(
            title=f"Abstaining by {router.label} ({self._split} rows)",
            columns=("coverage", "risk"),
            rows=rows,
            notes=(
                "With a threshold of so much, the share of tasks for which an expert is"
                " taken, and of these the share on which it is no better than the base."
                " A threshold is set on held-in tasks' validation rows.",
            ),
        )


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
      metric: Likewise.
    """
    rows = reported.all.where(split=split, metric=metric)
    scored = rows.distinct("expert_fingerprint", "task")
    for one in everyone:
        lacking = [task for task in tasks if (one.fingerprint, task) not in scored]
        if lacking:
            more = f" (and {len(lacking) - 1} other tasks)" if lacking[1:] else ""
            raise errors.DataError(
                found=f"no score of {one.name} on {lacking[0]} {split}{more}, in"
                f" {reported.store.path}",
                expected="one of the base and of each expert of the library, on each"
                " task that asks",
                do="Score it by elm_eval, with this base and random_seed",
            )


def _gaps(
    scores: Sequence[estimates.Estimate],
    base: estimates.Estimate,
    bound: estimates.Estimate,
) -> tuple[report.Figure, report.Figure]:
    """Returns regret and percent of the way, means over scores of the same rows."""
    if not scores:
        return None, None
    regret = float(np.mean([(bound - score).mean for score in scores]))
    gain = float(np.mean([(score - base).mean for score in scores]))
    way = (bound - base).mean
    return regret, f"{100 * gain / way:.0f}" if way else None
