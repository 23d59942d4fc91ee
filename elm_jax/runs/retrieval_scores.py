"""What ways to ask a library are worth, by the result rows of its experts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import (
    comparisons,
    cross_fitting,
    estimates,
    results,
    selection,
    statistics,
)
from elm_jax.library import retrieval
from elm_jax.reporting import report
from elm_jax.runs import report_library, report_rows
from elm_jax.runs.comparable_rows import ComparableRows

_Trainings = Sequence[statistics.Columns]
_WHOSE = "library"  # All ways to ask retrieve experts of the same trainings.
_NUM_SHOWN = 5  # ways with the greatest scores whose differences are shown


class Setting(NamedTuple):
    """A way to ask.

    Attributes:
      embedder: Its kind, and what tells it from others of its kind.
      text_format: What an instance looks like to it.
      num_nearest: How many of its nearest keys each query looks at.
      by: What it adds to the experts of these keys.
    """

    embedder: str
    text_format: str
    num_nearest: int
    by: retrieval.By

    @property
    def texts(self) -> str:
        """The text format and the embedder."""
        return f"{self.embedder}, {self.text_format}"

    @property
    def rule(self) -> str:
        """How queries vote for experts."""
        return f"{self.num_nearest} nearest, {self.by}"


class Scores:
    """The scores of a library's experts, and of each way to choose among them.

    Args:
      reported: Has the results of rows.
      rows: One metric and split of some tasks, of all models.
      experts: Fingerprint of each expert of the library, by name.
      asking: Rows of each task that ask, which may not be scored.

    Raises:
      DataError: An expert has no score on a task, or a row that asks has one.
    """

    def __init__(
        self,
        reported: ComparableRows,
        rows: Sequence[results.ResultRow],
        *,
        experts: Mapping[str, str],
        asking: Mapping[str, Sequence[int]],
    ) -> None:
        self._reported = reported
        self._names = {
            n: reported.names.get(fingerprint) for n, fingerprint in experts.items()
        }
        lacking = sorted(name for name, label in self._names.items() if not label)
        if lacking:
            raise errors.DataError(
                found="no rows of experts of the library:"
                f" {report_rows.listed(lacking)}, in {reported.store.path}",
                expected="a score of each of them on each task that asks",
                do="Score them by elm_eval on this split",
            )
        labels = {*self._names.values()}
        self._rows = [row for row in rows if row.expert in labels]
        self._oracle = selection.oracle(self._rows)  # refuses experts that lack a task
        self._draws = estimates.Draws()
        for (_, task), column in self._columns(self._oracle)[0].items():
            shared_rows = {*asking.get(task, ())} & {*column.example_ids.tolist()}
            if shared_rows:
                raise errors.DataError(
                    found=f"{len(shared_rows)} rows of {task} that ask and are scored",
                    expected="scores of other rows than those that ask",
                    do="Score with the retrieval that is compared, or ask with the"
                    " num_queries and random_seed of that evaluation",
                )

    def compare(
        self, choices: Mapping[Setting, Mapping[str, str]], own_setting: Setting
    ) -> tuple[report.Figures, report.Figures]:
        """Returns the table of all ways to ask, and that of their differences.

        Args:
          choices: The name in the library of each task's expert, by the way to ask.
          own_setting: The library's.
        """
        columns = {setting: self._of(choice) for setting, choice in choices.items()}
        scores = {k: self._estimate(trainings) for k, trainings in columns.items()}
        return self._all(scores, own_setting), self._differences(
            columns, scores, own_setting
        )

    def _all(
        self, scores: Mapping[Setting, estimates.Estimate], own_setting: Setting
    ) -> report.Figures:
        rules = [*dict.fromkeys(setting.rule for setting in scores)]
        by_texts: dict[str, dict[str, estimates.Estimate]] = {}
        for setting, estimate in scores.items():
            by_texts.setdefault(setting.texts, {})[setting.rule] = estimate
        rows = [
            (texts, tuple(by_rule[rule].mean for rule in rules))
            for texts, by_rule in by_texts.items()
        ]
        split = self._rows[0].split
        return report.Figures(
            title=f"Retrieval by texts and rules of votes ({split} rows, percent)",
            columns=tuple(rules),
            rows=tuple(rows),
            notes=(
                f"{own_setting.texts}, {own_setting.rule} is the library's own way, and"
                " the rule is the paper's. Means over datasets of what the retrieved"
                " experts score on rows that did not ask.",
            ),
        )

    def _differences(
        self,
        columns: Mapping[Setting, _Trainings],
        scores: Mapping[Setting, estimates.Estimate],
        own_setting: Setting,
    ) -> report.Figures:
        base = scores[own_setting]
        other_scores = {
            self._label(k): estimate
            for k, estimate in scores.items()
            if k != own_setting
        }
        gaps = comparisons.against(base, other_scores) if other_scores else {}
        best = _best_apart(other_scores)[:_NUM_SHOWN]
        rows: list[tuple[str, tuple[report.Figure, ...]]] = [
            ("the library's own way", (base.interval, None)),
            *(
                (
                    name,
                    (other_scores[name].mean, report.Signed(gaps[name].simultaneous)),
                )
                for name in best
            ),
        ]
        labelled = {self._label(k): trainings for k, trainings in columns.items()}
        fitted = cross_fitting.cross_fit(labelled, self._draws, shared=_WHOSE)
        if fitted is not None and other_scores:
            best_fitted = fitted.best_single.estimate
            gap = report.Signed((best_fitted - base).interval)
            rows.append(("best way, cross-fitted", (best_fitted.interval, gap)))
        bound = self._estimate(self._columns(self._oracle))
        random = float(np.mean(report_library.means(self._rows)))
        rows.append(("random expert", (random, None)))
        rows.append(("oracle of these experts", (bound.mean, None)))
        number = max(map(len, columns.values()))
        return report.Figures(
            title="The best ways to ask, and the library's own (points)",
            columns=("score", "difference"),
            rows=tuple(rows),
            notes=(
                "The best ways are chosen by the rows that score them: bounds. Of ways"
                " that retrieve the same experts one is shown."
                f" Differences hold together for all {len(other_scores)} ways; that of"
                " the cross-fitted one, chosen on one half of the rows and scored on"
                " the other, has an interval of its own.",
                f"{len(self._names)} experts, {number} trainings of each."
                " The oracle is the best expert of each prompt, chosen here.",
            ),
        )

    def _label(self, setting: Setting) -> str:
        return f"{setting.texts}, {setting.rule}"

    def _of(self, choice: Mapping[str, str]) -> _Trainings:
        """Returns the results of experts that are named as in the library."""
        labels = {task: self._names[name] or "" for task, name in choice.items()}
        return self._columns(labels)

    def _columns(self, choice: Mapping[str, str]) -> _Trainings:
        rows = [row for row in self._rows if choice[row.task] == row.expert]
        return self._reported.trainings(rows)

    def _estimate(self, columns: _Trainings) -> estimates.Estimate:
        return estimates.estimate(columns, self._draws, who=_WHOSE)


def _best_apart(ways: Mapping[str, estimates.Estimate]) -> list[str]:
    """Returns the names of ways, best first; of equal results only the first."""
    by_results: dict[bytes, str] = {}
    for name in sorted(ways, key=lambda name: -ways[name].mean):
        by_results.setdefault(ways[name].errors.tobytes(), name)
    return [*by_results.values()]
