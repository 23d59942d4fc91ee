"""The ways to choose parameters that a report compares, with what each one scores."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from elm_jax import expert_kinds
from elm_jax.evaluation import (
    cross_fitting,
    estimates,
    results,
    row_columns,
    selection,
    statistics,
)
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.runs import report_controls, report_settings
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_way import Rows, Way

_NOTES: Mapping[expert_kinds.Role, str] = {
    "base": "the base alone",
    "selection": "one expert, trained on the labelled rows by which others are chosen",
}


class Ways:
    """All ways that rows of one metric and split show.

    Attributes:
      rows: The rows.
      singles: The rows of single experts.
      draws: How they are resampled.
      datasets: Names of the datasets.
      all: The ways, in the order in which they are shown.
      choosing: The strategies that chose one expert for each task.
      settings: Groups of strategies of one kind that differ in settings alone.
      chosen_on: Rows by which experts and settings are chosen.
      chosen_here: Whether experts are chosen by the rows that are reported.
      cross_fitted: What choosing is worth; None for less than two experts, or where
        it cannot be told.

    Args:
      reported: Has the results of rows.
      rows: What is reported of some tasks.
      chosen_on: Rows of the same tasks by which experts are chosen.
      note_of: Returns what the row's strategy or method is, in a few words.
      selection_split: Where experts are chosen.

    Raises:
      DataError: An expert lacks a task that another has.
    """

    def __init__(
        self,
        reported: ComparableRows,
        rows: Rows,
        *,
        chosen_on: Rows,
        note_of: Callable[[results.ResultRow], str],
        selection_split: str,
    ) -> None:
        self.rows, self.chosen_on = row_columns.of(rows), row_columns.of(chosen_on)
        self.draws = estimates.Draws()
        self._reported = reported
        self._keys = {*self.rows.distinct("dataset", "task")}
        self.datasets = sorted({dataset for dataset, _ in self._keys})
        self.singles = selection.single_experts(rows)
        self._chosen_on = selection.single_experts(chosen_on)
        self.chosen_here = _are_same(self.singles, self._chosen_on)
        self._where = f"chosen on {selection_split} rows"
        if self.chosen_here:
            self._where = "chosen on these rows: a bound"
        self.cross_fitted = None
        if len(self.experts) > 1:
            selection.oracle(self.singles)  # refuses experts that lack a task
            self.cross_fitted = cross_fitting.cross_fit(self.experts, self.draws)
        self.all = [*self._methods(note_of)]
        self.choosing = [
            way
            for way in self.all
            if way.role == "strategy" and all(row.is_choice for row in way.rows)
        ]
        self.settings = tuple(report_settings.of(self.all, self.draws))
        self.all += map(report_settings.view, self.settings)
        self.all += self._choices()

    @functools.cached_property
    def experts(self) -> dict[str, Sequence[statistics.Columns]]:
        """Results of each training of each single expert."""
        by_expert = self.singles.split("expert")
        return {
            name: self._reported.trainings(by_expert[name])
            for name in sorted(by_expert)
        }

    @property
    def settings_chosen_here(self) -> bool:
        """Whether settings would be chosen by the rows that are reported."""
        return _are_same(self.rows, self.chosen_on)

    def by_label(self, label: str) -> Way | None:
        """Returns a way, or None if there is none of this name."""
        return next((way for way in self.all if way.label == label), None)

    def of_role(self, role: expert_kinds.Role) -> Way | None:
        """Returns the way of a role, or None if there is none, or several are."""
        ways = [way for way in self.all if way.role == role]
        return ways[0] if len(ways) == 1 else None

    def library(self, way: Way) -> RowColumns:
        """Returns the single experts' rows, of the kinds that a strategy chose from.

        All kinds, if rows do not tell what it chose.
        """
        names = self._reported.names
        chosen_names = [names.get(row.expert_fingerprint) for row in way.rows]
        chosen = self.singles.among("expert", {*chosen_names})
        kinds = {kind for (kind,) in chosen.distinct("kind")}
        return self.singles.among("kind", kinds) if kinds else self.singles

    def library_cross_fitted(self, way: Way) -> cross_fitting.CrossFitted | None:
        """Returns what choosing among the experts of `library` is worth."""
        names = sorted(name for (name,) in self.library(way).distinct("expert"))
        if len(names) == len(self.experts):
            return self.cross_fitted
        if len(names) < 2:
            return None
        trainings = {name: self.experts[name] for name in names}
        return cross_fitting.cross_fit(trainings, self.draws)

    def chosen(self, way: Way) -> dict[tuple[str, str], str]:
        """Returns the experts that a strategy chose, by (dataset, task), if told.

        And if all of its trainings chose the same one.
        """
        names = self._reported.names
        experts = self.experts
        chosen = {}
        for row in way.rows:
            behind = self._reported.behind(row)
            chosen_names = {
                names.get(training.expert_fingerprint) for training in behind
            }
            name = chosen_names.pop()
            if name in experts and not chosen_names:
                chosen[row.dataset, row.task] = name
        return chosen

    def _methods(self, note_of: Callable[[results.ResultRow], str]) -> Iterator[Way]:
        """Yields the ways with rows of their own, without single experts, by role."""
        is_other = ~row_columns.roles(self.rows).are("expert".__eq__)
        names = {name for (name,) in self.rows.take(is_other).distinct("expert")}
        first_rows: dict[str, results.ResultRow] = {}
        for row in self.rows.take(is_other):
            first_rows.setdefault(row.expert, row)
        by_role = sorted(
            first_rows.values(), key=lambda row: results.ROLES.index(row.role)
        )
        rows_by_name = self.rows.among("expert", names).split("expert")
        for first_row in by_role:
            way_rows = rows_by_name[first_row.expert]
            # Trained on the rows that choose: where these are reported, it knows them.
            knows = first_row.role == "selection" and self.settings_chosen_here
            way = self._way(
                first_row.expert, note_of(first_row), way_rows, way_rows, is_bound=knows
            )
            yield dataclasses.replace(way, role=first_row.role)

    def _choices(self) -> Iterator[Way]:
        if not self.singles:
            return
        is_bound = self.chosen_here
        if self._chosen_on:
            best, *equals = selection.best_singles(self._chosen_on)
            note = f"{best}, {self._where}"
            if equals:
                note += f", the first by name of {1 + len(equals)} with the best mean"
            yield self._view("best_single", note, self._everywhere(best), is_bound)
            note = f"the best expert of each prompt, {self._where}"
            yield self._view(
                "best_per_prompt", note, selection.oracle(self._chosen_on), is_bound
            )
        if self.cross_fitted is not None:
            for label, way_text in (
                ("best_single", "the best expert"),
                ("best_per_prompt", "the best expert of each prompt"),
            ):
                fitted: cross_fitting.Chosen = getattr(self.cross_fitted, label)
                several = fitted.estimate.num_trainings > 1
                yield Way(
                    label=f"{label}_crossfit",
                    note=f"{way_text}, chosen on one half of these rows and reported on"
                    " the other, and the other way round"
                    + several
                    * "; of trainings, all but one choose, each in turn",
                    columns=fitted.columns,
                    score=fitted.estimate,
                    is_whole=True,
                )
        note = "the best expert of each prompt, chosen on these rows: a bound"
        yield self._view("oracle", note, selection.oracle(self.singles), True)
        yield from self._of_library()

    def _of_library(self) -> Iterator[Way]:
        """Yields what experts score without a choice for the task, and the bound."""
        if self.cross_fitted is None:
            return
        if self.choosing:
            first_way = self.choosing[0]
            library_rows = self.library(first_way)
            names = library_rows.distinct("expert")
            if len(names) < len(self.experts):
                note = f"the same of the {len(names)} experts that"
                note += f" {first_way.label} may choose: a bound"
                best = selection.oracle(library_rows)
                yield self._view("library_oracle", note, best, True)
            other_datasets = report_controls.elsewhere(
                first_way, self.chosen(first_way), self.experts, self.draws
            )
            if other_datasets is not None:
                yield other_datasets
        drawn = report_controls.random_expert(self.experts, self.draws)
        if drawn is not None:
            yield drawn

    def _everywhere(self, name: str) -> dict[str, str]:
        return selection.everywhere(name, self.singles)

    def _view(
        self, label: str, note: str, choice: dict[str, str], is_bound: bool
    ) -> Way:
        shown = selection.view(self.singles, choice, label=label)
        chosen_rows = selection.rows_of(self.singles, choice)
        return self._way(label, note, shown, chosen_rows, is_bound=is_bound)

    def _way(
        self,
        label: str,
        note: str,
        shown: Rows,
        scored: Rows,
        *,
        is_bound: bool = False,
    ) -> Way:
        columns = self._reported.trainings(scored)
        whole_datasets = {
            name
            for name in self.datasets
            if {key for key in self._keys if key[0] == name} <= columns[0].keys()
        }
        score = None
        if whole_datasets:
            whole_columns = [
                {k: v for k, v in c.items() if k[0] in whole_datasets} for c in columns
            ]
            score = estimates.estimate(whole_columns, self.draws, who=label)
        return Way(
            label=label,
            note=note,
            rows=shown,
            columns=columns,
            score=score,
            is_whole=len(whole_datasets) == len(self.datasets),
            is_bound=is_bound,
            is_reference=is_bound,
        )


def _are_same(rows: Rows, chosen_on: Rows) -> bool:
    """Returns whether experts are chosen by the rows that are reported."""
    reported, choosing = row_columns.of(rows), row_columns.of(chosen_on)
    if {*reported.distinct("split")} & {*choosing.distinct("split")}:
        return True
    # One file under the names of two splits is one split.
    data = {*reported.distinct("task", "data_fingerprint")}
    shared_data = data & {*choosing.distinct("task", "data_fingerprint")}
    return any(fingerprint is not None for _, fingerprint in shared_data)


def note(row: results.ResultRow, of_votes: str) -> str:
    """Returns what a row's strategy, baseline or method is, in a few words.

    Args:
      row: One of its rows.
      of_votes: The words for a strategy that chose by votes.
    """
    if row.strategy_note:
        return row.strategy_note
    if row.role in _NOTES:
        return _NOTES[row.role]
    if row.role == row.expert == "multitask":
        return "one model trained on all prompts, same token budget"
    if row.is_expert:
        return ", ".join(filter(None, (f"a {row.kind} expert", row.source)))
    if row.is_choice:
        return of_votes
    # Up to release 0.1 rows told none, and no other strategy merged.
    return "uniform merge of the three experts with most votes"
