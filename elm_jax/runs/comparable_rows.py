"""Which rows of a result file a report shows, after a check that they go together."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from elm_jax.checkpoints import manifest
from elm_jax.evaluation import (
    naming,
    result_store,
    results,
    row_columns,
    selection,
    statistics,
)
from elm_jax.evaluation.compact_columns import CompactColumns, Kept, compact
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.runs import row_doubts, whole_trainings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """The tasks, split and metrics that a report shows, and the split that chooses.

    Attributes:
      tables: Names of tasks by what the report calls them; the unseen ones first.
      split: What is reported.
      selection_split: Where experts are chosen for the unseen tasks.
      metrics: What may be shown.
      merged_expert: The merge that is to solve the composed tasks; "" for none.
    """

    tables: Mapping[str, Sequence[str]]
    split: str
    selection_split: str
    metrics: Sequence[str]
    merged_expert: str = ""

    @functools.cached_property
    def cells(self) -> frozenset[tuple[str, str]]:
        """Every (task, split) whose rows are shown, or choose experts."""
        shown = [(task, self.split) for tasks in self.tables.values() for task in tasks]
        unseen = next(iter(self.tables.values()))
        return frozenset(shown + [(task, self.selection_split) for task in unseen])

    def of(self, rows: RowColumns) -> RowColumns:
        """Returns the rows that are shown, or that choose experts."""
        metric_rows = rows.among("metric", {*self.metrics, "chance"})
        is_shown = metric_rows.derived(
            lambda row: (row.task, row.split) in self.cells, "task", "split"
        )
        return metric_rows.take(is_shown.are(bool))


class ComparableRows:
    """The newest rows of a store that a report shows: of one base, vocabulary and seed.

    Attributes:
      store: Where they are from.
      shown: What is shown of them.
      newest: The newest rows, also those that are not shown.
      all: Rows that are shown or that choose experts, by the names of the file.
      is_of_one_training: Whether there is one training of each expert.

    Args:
      store: Has the rows of all trainings, in the order they were written.
      only: Values that fields must have; "" and None ask for nothing.
      shown: What is shown.

    Raises:
      DataError: The rows are of several bases, vocabularies or seeds, or those of a
        table are of several protocols, and `only` chooses none of them.
      CheckpointError: The folder of an expert has a manifest that cannot be read.
    """

    def __init__(
        self, store: result_store.ResultStore, only: Mapping[str, object], shown: Shown
    ) -> None:
        filters = {name: v for name, v in only.items() if v not in ("", None)}
        matching = naming.strategies_told_apart(store.rows().where(**filters))
        self.store, self.shown = store, shown
        self._on_disk = _on_disk(store)
        self._sources = {
            (s, fingerprint) for (_, s), fingerprint in self._on_disk.items()
        }
        self.newest = naming.newest(matching, self._on_disk)
        self.all = shown.of(self.newest)
        self._before = shown.of(matching)
        naming.check_comparable(self.all, shown.tables.values())
        # Of release 0.1, only the report tells which row is its merge. A name means
        # one expert on the whole page.
        kinds = self.all.derived(
            lambda row: (
                "merged"
                if not row.kind and row.expert == shown.merged_expert
                else row.kind
            ),
            *("kind", "expert"),
        )
        self._trainings = whole_trainings.of(
            naming.told_apart(self.all.replaced(kind=kinds))
        )
        self._rows = naming.averaged(self._trainings.rows)
        self.is_of_one_training = self._rows is self._trainings.rows
        self._selected: dict[object, RowColumns] = {}
        self._ids: dict[bytes, np.ndarray] = {}
        self._columns: dict[tuple[object, ...], Kept] = {}

    def of(self, tasks: Sequence[str], *, split: str, metric: str) -> RowColumns:
        """Returns the rows of some tasks, with a different name for each expert.

        Of an expert that was trained with several seeds it is their mean.
        """
        key = (tuple(tasks), split, metric)
        if key not in self._selected:
            self._selected[key] = selection.select(
                self._rows, split=split, metric=metric, tasks=tasks
            )
        return self._selected[key]

    def behind(self, row: results.ResultRow) -> Sequence[results.ResultRow]:
        """Returns the rows of all trainings behind a row that `of` returned."""
        if self.is_of_one_training:
            return [row]
        rows = self._trainings.rows
        return [rows[place] for place in self._behind[whole_trainings.cell(row)]]

    @functools.cached_property
    def _behind(self) -> dict[tuple[str, ...], list[int]]:
        """Places of the rows of each cell, in the order of their seeds."""
        rows = self._trainings.rows
        seeds = [seed or 0 for seed in rows.coded("training_seed").listed()]
        columns = [rows.coded(name).listed() for name in whole_trainings.CELL]
        places: dict[tuple[str, ...], list[int]] = {}
        for place in sorted(range(len(rows)), key=seeds.__getitem__):
            key = tuple(column[place] for column in columns)
            places.setdefault(key, []).append(place)
        return places

    def folder(self, row: results.ResultRow) -> pathlib.Path | None:
        """Returns the folder of a row's expert; None if another one is there now.

        Args:
          row: A row of one training, as `behind` gives them.
        """
        is_there = (row.source, row.expert_fingerprint) in self._sources
        return self.store.path.parent / row.source if is_there else None

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The name of each expert by the fingerprint of each of its trainings."""
        rows = self._trainings.rows
        expert_rows = rows.take(row_columns.are_experts(rows))
        lasts = np.sort(expert_rows.groups("expert_fingerprint", "expert").lasts)
        return {row.expert_fingerprint: row.expert for row in expert_rows.take(lasts)}

    def trainings(
        self, rows: Sequence[results.ResultRow]
    ) -> Sequence[statistics.Columns]:
        """Returns the per-example results behind rows that `of` gave, by training.

        Args:
          rows: At most one for each task, of one metric; at least one.

        Returns:
          As many as the expert with the fewest trainings has.

        Raises:
          DataError: A row has no per-example values, or there are two of a task.
        """
        return [
            CompactColumns(self._read(training)) for training in self.by_training(rows)
        ]

    def by_training(self, rows: Sequence[results.ResultRow]) -> Sequence[RowColumns]:
        """Returns the rows behind rows that `of` gave, by training; see `trainings`."""
        if self.is_of_one_training:
            return [row_columns.of(rows)]
        behind = [self._behind[whole_trainings.cell(row)] for row in rows]
        number = min(map(len, behind))
        return [
            self._trainings.rows.take(np.array([places[place] for places in behind]))
            for place in range(number)
        ]

    def _read(self, rows: RowColumns) -> dict[statistics.Key, Kept]:
        """Returns ids and values of rows, each file read and each id kept once."""
        names = ("dataset", "task")
        keys = [*zip(*(rows.coded(name).listed() for name in names), strict=True)]
        if len({*keys}) < len(keys):
            twice = next(i for i, key in enumerate(keys) if key in keys[:i])
            raise statistics.unusable(rows[twice], "two rows")
        # No metric has two records of the same place.
        names = ("per_example_path", "per_example_offset", "metric")
        places = [*zip(*(rows.coded(name).listed() for name in names), strict=True)]
        by_metric: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            if place not in self._columns:
                by_metric.setdefault(place[2], []).append(i)
        for metric, new in by_metric.items():
            new_rows = rows.take(np.array(new))
            arrays_of = self.store.per_examples(new_rows, only=("example_ids", metric))
            for i, arrays in zip(new, arrays_of, strict=True):
                self._columns[places[i]] = self._compact_column(rows[i], metric, arrays)
        return {k: self._columns[at] for k, at in zip(keys, places, strict=True)}

    def _compact_column(
        self, row: results.ResultRow, metric: str, arrays: Mapping[str, np.ndarray]
    ) -> Kept:
        ids = np.asarray(arrays["example_ids"], np.int64)
        content = ids.tobytes()
        if content not in self._ids or metric not in arrays:
            statistics.values_of(row, arrays)  # refuses what is no column
            self._ids[content] = ids.copy()
        return Kept(self._ids[content], compact(arrays[metric]))

    def details(self) -> tuple[tuple[str, str], ...]:
        """Returns what a page tells of all its rows, as names and values."""
        rows = self.all

        def values_of(name: str) -> str:
            return ", ".join(sorted({value for (value,) in rows.distinct(name)} - {""}))

        return (
            ("result rows", f"{len(rows)} of {self.store.path.name}"),
            ("base", values_of("base_fingerprint")),
            ("protocol", values_of("protocol")),
            ("vocabulary", values_of("vocabulary")),
        )

    def doubts(self) -> Iterator[str]:
        """Yields a sentence for each doubt about the experts behind the rows."""
        return row_doubts.of(
            self._before, self.all, on_disk=self._on_disk, trainings=self._trainings
        )


def _on_disk(store: result_store.ResultStore) -> dict[naming.Folder, str]:
    """Returns the fingerprints of the experts that are in the folders of rows now."""
    fingerprints: dict[naming.Folder, str] = {}
    rows = store.rows()
    expert_rows = rows.take(
        row_columns.are_experts(rows) & rows.coded("source").are(bool)
    )
    for name, source in sorted(expert_rows.distinct("expert", "source")):
        folder = store.path.parent / source
        if (folder / manifest.FILE_NAME).is_file():
            info = manifest.read_manifest(folder)
            if info.name == name:
                fingerprints[name, source] = info.fingerprint
    return fingerprints
