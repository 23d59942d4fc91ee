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
      entropies: Of the weights of each task, as far as they are known.
    """

    rows: list[results.ResultRow]
    lacking: list[str]
    names: dict[str, str]
    entropies: list[float]


class Scores:
    """What parameters score on tasks, by their fingerprints.

    Args:
      reported: Has the rows of these tasks.
      questions: Of the tasks, with the behaviour that routers look at.
      split: Of the rows.
      metric: Likewise.

    Raises:
      DataError: A row that asks was scored as well.
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
        self._base = self._of({q.task: candidates.Candidate("base") for q in questions})
        self._check_is_unseen()
        folders = {n: f for q in questions for n, f in q.experts.items()}
        found = candidates.of_experts([*folders.values()])
        experts = dict(zip(folders, found, strict=True))
        self._own = {
            q.task: name
            for q in questions
            for name, one in experts.items()
            if q.task in one.manifests[0].tasks
        }
        tasks = [question.task for question in questions]
        every = {n: self._of(dict.fromkeys(tasks, c)) for n, c in experts.items()}
        self._experts = every if not any(c.lacking for c in every.values()) else {}

    def _check_is_unseen(self) -> None:
        rows = {row.task: row for row in self._base.rows}
        for question in self._questions:
            row = rows.get(question.task)
            if row is None or question.dataset.split != self._split:
                continue
            ids = self._store.per_example(row, only=("example_ids",))["example_ids"]
            asked = {question.dataset[place].example_id for place in question.rows}
            if asked & {*np.asarray(ids).tolist()}:
                raise errors.DataError(
                    found=f"rows of {question.task} that ask and are scored",
                    expected="scores of other rows than those that ask",
                    do="Score with this retrieval, or ask as that evaluation did",
                )

    def _of(self, choice: Choices) -> _Chosen:
        rows, lacking, entropies, names = [], [], [], {}
        for task, one in choice.items():
            row = self._rows.get((one.fingerprint, task))
            if row is None:
                lacking.append(task)
            else:
                rows.append(row)
            if len(one.manifests) == 1 and not one.is_merged:
                names[task] = one.manifests[0].name
            entropy = router_entropy.of(one, row, self._store)
            entropies += [] if entropy is None else [entropy]
        return _Chosen(rows, lacking, names, entropies)

    def _estimate(self, one: _Chosen) -> estimates.Estimate | None:
        if one.lacking or not one.rows:
            return None
        columns = statistics.columns(one.rows, self._store.per_example)
        return estimates.estimate([columns], self._draws, who="library")

    def _best(self) -> dict[str, set[str]]:
        """Returns the best experts of each task; nothing unless all were scored."""
        values = {
            name: {row.task: row.value for row in one.rows}
            for name, one in self._experts.items()
        }
        return {
            q.task: {
                name
                for name, own in values.items()
                if own[q.task] == max(other[q.task] for other in values.values())
            }
            for q in self._questions
            if values
        }

    def table(self, choices: Mapping[str, Choices]) -> report.Figures:
        """Returns the table of all routers.

        Args:
          choices: Of each router, what it chose for each task.
        """
        best, base = self._best(), self._estimate(self._base)
        rows = [("base, no expert", self._base)]
        rows += [(label, self._of(choice)) for label, choice in choices.items()]
        bound = None
        if best:
            experts = {n: {r.task: r for r in c.rows} for n, c in self._experts.items()}
            own = [experts[min(names)][task] for task, names in best.items()]
            named = {task: min(names) for task, names in best.items()}
            oracle = _Chosen(own, [], named, [0.0] * len(own))
            bound = self._estimate(oracle)
            rows.append(("oracle of these experts", oracle))
        lines = [(n, tuple(self._figures(c, base, bound, best))) for n, c in rows]
        if self._experts:
            random = [self._estimate(one) for one in self._experts.values()]
            mean = float(np.mean([one.mean for one in random if one]))
            more = self._gaps(mean, base, bound)
            lines.insert(1, ("random expert", (mean, *more, None, None, None, None)))
        lacking = sum(bool(self._of(c).lacking) for c in choices.values())
        unscored = (
            f" {lacking} were not scored on all of these tasks." if lacking else ""
        )
        return report.Figures(
            title=f"Routers ({self._split} rows of {len(self._questions)} tasks, %)",
            columns=(
                *("score", "regret", "of the way"),
                *("best chosen", "own chosen", "experts", "entropy"),
            ),
            rows=tuple(lines),
            notes=(
                "Means over datasets. Regret, in points, is to the oracle, the best"
                " expert of each task by these very rows, which is too high. Of the"
                f" way: from base to oracle, in percent.{unscored}",
                "best chosen: on how many tasks one of the best experts; own: on how"
                " many of those with an expert that was trained on them this one;"
                " experts: how many different ones; entropy: of the experts' weights,"
                " in nats, mean over tasks.",
            ),
        )

    def _figures(
        self,
        one: _Chosen,
        base: estimates.Estimate | None,
        bound: estimates.Estimate | None,
        best: Mapping[str, set[str]],
    ) -> Iterator[report.Figure]:
        score = self._estimate(one)
        yield score.interval if score else "not scored"
        yield from self._gaps(score.mean if score else None, base, bound)
        for right in (best, {t: {n} for t, n in self._own.items()}):
            hits = sum(one.names.get(task) in names for task, names in right.items())
            yield f"{hits} of {len(right)}" if right and one.names else None
        yield f"{len({*one.names.values()})}" if one.names else None
        yield f"{np.mean(one.entropies):.2f}" if one.entropies else None

    def _gaps(
        self,
        mean: float | None,
        base: estimates.Estimate | None,
        bound: estimates.Estimate | None,
    ) -> tuple[report.Figure, report.Figure]:
        if mean is None or base is None or bound is None:
            return None, None
        way = bound.mean - base.mean
        share = f"{100 * (mean - base.mean) / way:.0f}" if way else None
        return bound.mean - mean, share

    def curve(self, router: routers.ByBehaviour) -> report.Figures | None:
        """Returns coverage and risk of a router by thresholds of its statistic.

        None where not all experts were scored.
        """
        if not self._experts or self._base.lacking:
            return None
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
