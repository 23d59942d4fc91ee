"""A table of routers: what their choices score in one or several trainings.

Each training of the experts has a library of its own, which is asked by the same rows.
Scores are means over trainings, and intervals count rows and trainings, as those of
`evaluation.estimates` do. Differences are paired: two routers of one library share the
errors of its training.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import estimates, results
from elm_jax.reporting import report
from elm_jax.routing import abstaining
from elm_jax.runs import router_scores, router_times, routers

_BASE, _ORACLE = "base, no expert", "oracle of these experts"


class Training(NamedTuple):
    """The library of one training, and the choices of routers from it.

    Attributes:
      scores: Of all that may be chosen.
      choices: Of each router, what it chose for each task.
    """

    scores: router_scores.Scores
    choices: Mapping[str, router_scores.Choices]


class _Line(NamedTuple):
    """A router's choices in each training, and its score if all of them were scored."""

    scored: Sequence[router_scores.Scored]
    score: estimates.Estimate | None


class Table:
    """The table of all routers, in one split.

    Args:
      trainings: One or several, of the same experts, tasks, rows and routers.
      times: What each router took, as far as that was measured.
      baseline: The router that all are compared with; "" for the base.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        times: Mapping[str, router_times.Times],
        baseline: str = "",
    ) -> None:
        self._trainings, self._times = trainings, times
        self._scores = [training.scores for training in trainings]
        self._draws = estimates.Draws()
        base = self._line([scores.base for scores in self._scores])
        oracle = self._line([scores.oracle for scores in self._scores])
        routed = {
            label: self._line(
                [t.scores.of(t.choices[label]) for t in trainings],
            )
            for label in trainings[0].choices
        }
        self._lines = {_BASE: base, **routed, _ORACLE: oracle}
        assert base.score is not None  # noqa: S101 - `Scores` has checked it
        assert oracle.score is not None  # noqa: S101 - likewise
        self._base, self._bound = base.score, oracle.score
        self._baseline = self._lines[baseline or _BASE].score
        self._compared_with = baseline or "base"

    def _line(self, scored: Sequence[router_scores.Scored]) -> _Line:
        if any(of_training.lacking for of_training in scored):
            return _Line(scored, None)
        pairs = zip(self._scores, scored, strict=True)
        columns = [scores.columns(chosen) for scores, chosen in pairs]
        estimate = estimates.estimate(columns, self._draws, who="library")
        return _Line(scored, estimate)

    @property
    def figures(self) -> report.Figures:
        """The table."""
        lines = [(n, tuple(self._figures(n, x))) for n, x in self._lines.items()]
        lines.insert(1, ("random expert", tuple(self._random())))
        num_lacking = sum(line.score is None for line in self._lines.values())
        unscored = (
            f" {num_lacking} were not scored on all of these tasks."
            if num_lacking
            else ""
        )
        scores, number = self._scores[0], len(self._trainings)
        several = f", {number} trainings" if number > 1 else ""
        counted, suffix = _tasks(number), ", mean of trainings" if several else ""
        title = f"{scores.split} rows of {len(scores.tasks)} tasks{several}"
        return report.Figures(
            title=f"Routers ({title}, %)",
            columns=(
                *("score", f"more than {self._compared_with}", "regret", "of the way"),
                *("best chosen", "own chosen", "experts", "spread"),
                *("s to choose", "s to answer"),
            ),
            rows=tuple(lines),
            notes=(
                "Means over datasets"
                + (" and trainings" if several else "")
                + ". Regret, in points, is to the oracle, the best"
                " expert of each task by these very rows, which is too high. Of the"
                f" way: from base to oracle, in percent.{unscored}",
                f"best chosen: on how many {counted} one of the best experts; own: on"
                " how many of those with experts that were trained on them one of"
                f" these; experts: how many different ones{suffix}; of token routers,"
                " the expert with the greatest mean weight counts; spread: the entropy"
                f" of the experts' mean weights, in nats, mean over {counted}; of token"
                " routers, of weights averaged over the tokens of those rows whose"
                " routes were kept.",
                "Seconds a task, for the rows that ask: until its parameters are there,"
                " and to rank the answers of these rows; nothing that was kept helped."
                " They are embedded for routers that read votes or vectors, and the"
                " second of two times counts.",
            ),
        )

    def _random(self) -> Iterator[report.Figure]:
        """Yields what an expert scores that is chosen by chance: a mean of all."""
        lines = [
            self._line([scores.experts[name] for scores in self._scores])
            for name in self._scores[0].experts
        ]
        experts = [line.score for line in lines if line.score is not None]
        yield float(np.mean([score.mean for score in experts]))
        if self._baseline is None:
            yield None
        else:
            yield report.Signed(results.Interval(_mean_gap(experts, self._baseline)))
        yield -_mean_gap(experts, self._bound)
        yield _percent(_mean_gap(experts, self._base), (self._bound - self._base).mean)
        yield from [None] * 6

    def _figures(self, label: str, line: _Line) -> Iterator[report.Figure]:
        score = line.score
        if score is None:
            yield from ("not scored", None, None, None)
        else:
            yield score.interval
            more = None if self._baseline is None else (score - self._baseline).interval
            yield None if more is None else report.Signed(more)
            yield (self._bound - score).interval
            yield _percent((score - self._base).mean, (self._bound - self._base).mean)
        yield self._hits(line, [scores.best for scores in self._scores])
        yield self._hits(line, [scores.trained for scores in self._scores])
        numbers = [len({*chosen.names.values()}) for chosen in line.scored]
        yield f"{np.mean(numbers):.3g}" if any(numbers) else None
        spreads = [spread for chosen in line.scored for spread in chosen.spreads]
        yield f"{np.mean(spreads):.2f}" if spreads else None
        times = self._times.get(label)
        yield None if times is None else f"{times.choosing:.2f}"
        yield None if times is None else f"{times.answering:.2f}"

    @staticmethod
    def _hits(line: _Line, right: Sequence[Mapping[str, set[str]]]) -> report.Figure:
        """Returns on how many tasks of all trainings a right expert was chosen."""
        if not any(right) or not any(chosen.names for chosen in line.scored):
            return None
        hits = sum(
            chosen.names.get(task) in names
            for chosen, of_training in zip(line.scored, right, strict=True)
            for task, names in of_training.items()
        )
        return f"{hits} of {sum(map(len, right))}"


def _mean_gap(scores: Sequence[estimates.Estimate], base: estimates.Estimate) -> float:
    return float(np.mean([(score - base).mean for score in scores]))


def _tasks(num_trainings: int) -> str:
    """Returns what is counted: a task once in each training."""
    return "tasks of all trainings" if num_trainings > 1 else "tasks"


def _percent(part: float, whole: float) -> report.Figure:
    return f"{100 * part / whole:.0f}" if whole else None


def curve(trainings: Sequence[Training], router: routers.ByBehaviour) -> report.Figures:
    """Returns coverage and risk of a router by thresholds of its statistic.

    Args:
      trainings: Whose tasks count alike, each once in each training.
      router: Which chooses one expert.
    """
    pairs = [training.scores.losses(router) for training in trainings]
    values = [value for of_training, _ in pairs for value in of_training]
    losses = [loss for _, of_training in pairs for loss in of_training]
    rows = tuple(
        (f"{point.least:.4g}", (f"{point.coverage:.0%}", f"{point.risk:.0%}"))
        for point in abstaining.curve(values, losses)
    )
    return report.Figures(
        title=f"Abstaining by {router.label} ({trainings[0].scores.split} rows)",
        columns=("coverage", "risk"),
        rows=rows,
        notes=(
            f"With a threshold of so much, the share of {_tasks(len(trainings))} for"
            " which an expert is taken, and of these the share on which it is no"
            " better than the base."
            " A threshold is set on held-in tasks' validation rows.",
        ),
    )
