"""Our result rows beside published numbers."""

import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import controls, result_store, results
from elm_jax.runs import comparable_rows, report_ways
from elm_jax.runs.replay_data import MEAN, Row, Table
from elm_jax.runs.report_way import Way

_NOTHING = "not scored"


class Ours(NamedTuple):
    """Our number for a cell.

    Attributes:
      value: The number, with its interval if it has one; None if there is none.
      why: Why there is none, or why it is not to be judged; "" if it is.
    """

    value: results.Interval | None
    why: str = ""


class RowSource(NamedTuple):
    """Where our result rows for a published row are.

    Attributes:
      path: The result file.
      only: Values that fields of rows must have, such as the base's fingerprint.
      label: The name in rows, or of a report's view.
    """

    path: pathlib.Path
    only: tuple[tuple[str, object], ...]
    label: str


class Scores:
    """Our results by published row; each result file is read once.

    Attributes:
      sources: Where our results for each published row are.

    Args:
      sources: Where our results for each published row are.
      num_queries: Rows that may be left out of a split, as queries are.
    """

    def __init__(self, sources: Mapping[str, RowSource], num_queries: int) -> None:
        self.sources = sources
        self._num_queries = num_queries
        self._read = functools.cache(_ways)

    def cell(self, table: Table, row: Row, column: str) -> Ours:
        """Returns our number for a cell; `column` is a dataset's name or `MEAN`."""
        source = self.sources[row["name"]]
        if table["kind"] == "gains":
            return self._gain(table, row, "")
        ways = self._read(source.path, source.only, _selection_of(table))
        way = ways and ways.by_label(source.label)
        if ways is None or way is None:
            return Ours(None, _NOTHING)
        why = self._part(table, way, column)
        if table["kind"] == "ranks":
            return Ours(_rank(ways, way, column), why)
        whole = way.score
        if whole is None or (column != MEAN and column not in whole.datasets):
            return Ours(None, why or _NOTHING)
        if column == MEAN and why:
            return Ours(None, why)
        estimate = whole if column == MEAN else whole.of(column)
        return Ours(
            results.Interval(estimate.mean) if way.is_bound else estimate.interval, why
        )

    def cross_fitted(self, table: Table, row: Row) -> results.Interval | None:
        """Returns the gain of the same choice where other rows chose; None if none."""
        return self._gain(table, row, "_crossfit").value

    def provenance(self, table: Table, row: Row) -> str:
        """Returns which of our rows are compared with a published row."""
        source = self.sources[row["name"]]
        ways = self._read(source.path, source.only, _selection_of(table))
        if ways is None or ways.by_label(source.label) is None:
            return f"Ours would be: {source.label} of {source.path}."
        fingerprints = sorted({our_row.base_fingerprint for our_row in ways.rows})
        return f"Ours: {source.label} of {source.path}, base {', '.join(fingerprints)}."

    def _gain(self, table: Table, row: Row, ending: str) -> Ours:
        own_source, other_source = (
            self.sources[name] for name in (row["name"], row.get("minus", ""))
        )
        two_ways: list[Way] = []
        for source, label in (
            (own_source, own_source.label + ending),
            (other_source, other_source.label),
        ):
            ways = self._read(source.path, source.only, _selection_of(table))
            way = ways and ways.by_label(label)
            if way is None or way.score is None:
                return Ours(None, _NOTHING)
            if why := self._part(table, way, MEAN):
                return Ours(None, why)
            two_ways.append(way)
        score, subtracted = (way.score for way in two_ways)
        assert score is not None  # noqa: S101 - looked at above
        assert subtracted is not None  # noqa: S101
        bound = results.Interval(score.mean - subtracted.mean)
        if two_ways[0].is_bound:
            return Ours(bound)
        try:
            return Ours((score - subtracted).interval)
        except errors.DataError:  # of other rows, such as those of queries
            return Ours(bound)

    def _part(self, table: Table, way: Way, column: str) -> str:
        """Returns which prompts or rows of a cell are missing; "" if none is."""
        prompts_by_dataset: dict[str, set[str]] = {}
        for name in _selection_of(table).names:
            dataset = getattr(task_registry.registry.task(name), "dataset", name)
            prompts_by_dataset.setdefault(dataset, set()).add(name)
        scored: dict[str, set[str]] = {}
        for dataset, task in way.columns[0]:
            scored.setdefault(dataset, set()).add(task)
        sizes = {published["name"]: published["rows"] for published in table["columns"]}
        lacking = []
        for dataset in prompts_by_dataset if column == MEAN else (column,):
            prompts = prompts_by_dataset.get(dataset, set()) & scored.get(
                dataset, set()
            )
            if len(prompts) < len(prompts_by_dataset.get(dataset, ())):
                lacking.append(
                    f"{len(prompts)} of {len(prompts_by_dataset[dataset])} prompts"
                )
                continue
            least = min(len(way.columns[0][dataset, task].values) for task in prompts)
            if least < sizes.get(dataset, 0) - self._num_queries:
                lacking.append(f"{least} of {sizes[dataset]} rows")
        if column != MEAN or not lacking:
            return "".join(lacking[:1])
        whole = len(prompts_by_dataset) - len(lacking)
        return f"{whole} of {len(prompts_by_dataset)} datasets"


class _Selection(NamedTuple):
    names: tuple[str, ...]
    split: str
    metric: str


def _selection_of(table: Table) -> _Selection:
    names = task_registry.registry.expand(table["tasks"])
    return _Selection(tuple(names), table["split"], table["metric"])


def _ways(
    path: pathlib.Path, only: tuple[tuple[str, object], ...], selection: _Selection
) -> report_ways.Ways | None:
    """Returns what a result file says of a table's tasks; None for nothing."""
    if not path.is_file():
        return None
    shown = comparable_rows.Shown(
        tables={"Unseen": selection.names},
        split=selection.split,
        selection_split=selection.split,
        metrics=(selection.metric,),
    )
    reported = comparable_rows.ComparableRows(
        result_store.ResultStore(path), dict(only), shown
    )
    rows = reported.of(selection.names, split=selection.split, metric=selection.metric)
    if not rows:
        return None
    return report_ways.Ways(
        reported,
        rows,
        chosen_on=rows,
        note_of=lambda row: row.strategy_note,
        selection_split=selection.split,
    )


def _rank(ways: report_ways.Ways, way: Way, column: str) -> results.Interval | None:
    """Returns the mean rank over prompts of what a strategy chose."""
    chosen = ways.chosen(way)
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for row in ways.library(way):
        scores.setdefault(row.expert, {})[row.dataset, row.task] = row.value
    keys = [key for key in chosen if column in (MEAN, key[0])]
    if len(scores) < 2 or not keys:
        return None
    ranks = [controls.rank({key: chosen[key]}, scores).mean for key in keys]
    return results.Interval(float(np.mean(ranks)))
