"""Which rows of a result file a report shows, after a check that they go together."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from elm_jax.checkpoints import manifest
from elm_jax.evaluation import naming, result_store, results, selection, statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a report shows, and by what it chooses.

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
        """Every (task, split) whose rows are shown or chosen by."""
        shown = [(task, self.split) for own in self.tables.values() for task in own]
        unseen = next(iter(self.tables.values()))
        return frozenset(shown + [(task, self.selection_split) for task in unseen])

    def of(self, rows: Sequence[results.ResultRow]) -> list[results.ResultRow]:
        """Returns those rows that are shown or chosen by."""
        metrics = {*self.metrics, "chance"}
        return [
            row
            for row in rows
            if (row.task, row.split) in self.cells and row.metric in metrics
        ]


class ComparableRows:
    """The newest rows of a store that a report shows: of one base, vocabulary and seed.

    Attributes:
      store: Where they are from.
      shown: What is shown of them.
      newest: The newest rows, also those that are not shown.
      all: Those that are shown or chosen by, under the names that the file has.

    Args:
      store: Has the rows of all trainings, in the order they were written.
      only: Values that fields must have; "" and None ask for nothing.
      shown: What is shown.

    Raises:
      DataError: The rows are of several, or those of a table of several protocols,
        and none is chosen.
      CheckpointError: The folder of an expert has a manifest that cannot be read.
    """

    def __init__(
        self, store: result_store.ResultStore, only: Mapping[str, object], shown: Shown
    ) -> None:
        asked = {name: v for name, v in only.items() if v not in ("", None)}
        found = naming.strategies_told_apart(
            [
                row
                for row in store.rows()
                if all(getattr(row, name) == value for name, value in asked.items())
            ]
        )
        self.store, self.shown = store, shown
        self._lying = _lying(store)
        self._sources = {(s, lies) for (_, s), lies in self._lying.items()}
        self.newest = naming.newest(found, self._lying)
        self.all = shown.of(self.newest)
        self._before = shown.of(found)
        naming.check_comparable(self.all, shown.tables.values())
        # Of release 0.1, only the report tells which row is its merge. A name means
        # one expert on the whole page.
        self._named, self._partly, self._mixed = _whole_trainings(
            naming.told_apart(
                [
                    dataclasses.replace(row, kind="merged")
                    if not row.kind and row.expert == shown.merged_expert
                    else row
                    for row in self.all
                ]
            )
        )
        self._tables: dict[tuple[str, str], list[results.ResultRow]] = {}
        for row in naming.averaged(self._named):
            self._tables.setdefault((row.split, row.metric), []).append(row)
        self._behind: dict[tuple[str, ...], list[results.ResultRow]] = {}
        for row in sorted(self._named, key=lambda row: row.training_seed or 0):
            self._behind.setdefault(_cell(row), []).append(row)
        self._ids: dict[bytes, np.ndarray] = {}
        self._columns: dict[tuple[object, ...], statistics.Column] = {}

    def of(
        self, tasks: Sequence[str], *, split: str, metric: str
    ) -> list[results.ResultRow]:
        """Returns the rows of some tasks; each expert has a name of its own in them.

        Of an expert that was trained with several seeds it is their mean.
        """
        own = self._tables.get((split, metric), ())
        return selection.select(own, split=split, metric=metric, tasks=tasks)

    def behind(self, row: results.ResultRow) -> list[results.ResultRow]:
        """Returns the rows of all trainings behind one that `of` gave."""
        return self._behind[_cell(row)]

    def folder(self, row: results.ResultRow) -> pathlib.Path | None:
        """Returns where the expert of a row lies; None if it is not as it was scored.

        Args:
          row: Of one training, as `behind` gives them.
        """
        is_there = (row.source, row.expert_fingerprint) in self._sources
        return self.store.path.parent / row.source if is_there else None

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The name of each expert by the fingerprint of each of its trainings."""
        return {r.expert_fingerprint: r.expert for r in self._named if r.is_expert}

    def trainings(
        self, rows: Sequence[results.ResultRow]
    ) -> list[dict[statistics.Key, statistics.Column]]:
        """Returns the per-example results behind rows that `of` gave, by training.

        Args:
          rows: At most one for each task, of one metric; at least one.

        Returns:
          As many as the expert of the rows that was trained least often has.

        Raises:
          DataError: A row has no per-example values, or there are two of a task.
        """
        behind = [self.behind(row) for row in rows]
        number = min(map(len, behind))
        return [
            statistics.columns([own[place] for own in behind], self._column)
            for place in range(number)
        ]

    def _column(self, row: results.ResultRow) -> dict[str, np.ndarray]:
        """Returns ids and values of a row, each file read and each id kept once."""
        # No metric has two records of the same place.
        key = (row.per_example_path, row.per_example_offset, row.metric)
        if key not in self._columns:
            found = self.store.per_example(row, only=("example_ids", row.metric))
            if row.metric not in found:
                return found
            ids = np.asarray(found["example_ids"], np.int64)
            ids = self._ids.setdefault(ids.tobytes(), ids)
            values = np.asarray(found[row.metric], np.float64)
            self._columns[key] = statistics.Column(ids, values)
        ids, values = self._columns[key]
        return {"example_ids": ids, row.metric: values}

    def details(self) -> tuple[tuple[str, str], ...]:
        """Returns whose these rows are, as names and values."""
        rows = self.all
        return (
            ("result rows", f"{len(rows)} of {self.store.path.name}"),
            ("base", ", ".join(sorted({row.base_fingerprint for row in rows}))),
            ("protocol", ", ".join(sorted({row.protocol for row in rows}))),
            ("vocabulary", ", ".join(sorted({r.vocabulary for r in rows} - {""}))),
        )

    def doubts(self) -> Iterator[str]:
        """Yields what is doubtful about whose the rows are, a sentence each."""
        chosen: dict[str, dict[tuple[str, str, int | None], set[str]]] = {}
        for row in self._before:
            if not row.is_expert:
                own = chosen.setdefault(row.expert, {})
                cell = (row.task, row.split, row.training_seed if row.library else None)
                own.setdefault(cell, set()).add(row.expert_fingerprint)
        for label, by_cell in sorted(chosen.items()):
            tasks = {task for (task, *_), found in by_cell.items() if len(found) > 1}
            if tasks:
                yield (
                    f"{label} was scored with several experts on {len(tasks)} tasks:"
                    " the newest row counts."
                )
        lying = {(name, fingerprint) for (name, _), fingerprint in self._lying.items()}
        stale = {
            row.expert
            for row in self.all
            if (row.expert, row.source) in self._lying
            and (row.expert, row.expert_fingerprint) not in lying
        }
        for name in sorted(stale):
            yield (
                f"{name} was trained again since it was scored: its scores are those of"
                " the old training."
            )
        for name, number in sorted(self._partly.items()):
            yield (
                f"{number} trainings of {name} are left out: they were not scored on"
                " all tasks that its other trainings were scored on."
            )
        for name in sorted(self._mixed):
            yield (
                f"{name} is shown as one training, and its rows are of several: none"
                " of them was scored on all tasks, so the newest row of each counts."
            )
        silent = sum(not row.kind for row in self.all)
        if silent:
            yield (
                f"{silent} of {len(self.all)} rows tell neither the kind of their"
                " expert nor the true protocol, as those of release 0.1: a merged"
                " expert among them may be taken for a single one."
            )


def _cell(row: results.ResultRow) -> tuple[str, ...]:
    return (row.expert, row.task, row.split, row.metric, row.protocol)


def _whole_trainings(
    rows: Sequence[results.ResultRow],
) -> tuple[list[results.ResultRow], dict[str, int], set[str]]:
    """Returns rows of trainings that have all cells that others of their name have.

    And the number of trainings that are left out, by name. Where no training of a
    strategy has all cells, its newest rows are taken for one: the names of these, too.
    """
    cells: dict[str, dict[object, set[tuple[str, ...]]]] = {}
    for row in rows:
        if (training := _training(row)) is not None:
            own = cells.setdefault(row.expert, {})
            own.setdefault(training, set()).add(_cell(row))
    partly: dict[str, int] = {}
    dropped: set[tuple[str, object]] = set()
    mixed = set[str]()
    strategies = {row.expert for row in rows if row.role == "strategy"}
    for name, own in cells.items():
        most = max(map(len, own.values()))
        if name in strategies and most < len(set().union(*own.values())):
            mixed.add(name)
            continue
        short = [training for training, found in own.items() if len(found) < most]
        if short:
            partly[name] = len(short)
            dropped |= {(name, training) for training in short}
    kept = [row for row in rows if (row.expert, _training(row)) not in dropped]
    newest = {_cell(row): id(row) for row in kept if row.expert in mixed}
    whole = [r for r in kept if newest.get(_cell(r), id(r)) == id(r)]
    return whole, partly, mixed


def _training(row: results.ResultRow) -> object:
    """Returns what tells the trainings of a name apart; None for the base."""
    if row.role == "strategy":
        return row.training_seed if row.library else ""
    return row.expert_fingerprint if row.is_expert else None


def _lying(store: result_store.ResultStore) -> dict[naming.Folder, str]:
    """Returns the fingerprints of the experts that lie in the folders of rows now."""
    found: dict[naming.Folder, str] = {}
    own = [row for row in store.rows() if row.is_expert and row.source]
    for name, source in sorted({(row.expert, row.source) for row in own}):
        folder = store.path.parent / source
        if (folder / manifest.FILE_NAME).is_file():
            info = manifest.read_manifest(folder)
            if info.name == name:
                found[name, source] = info.fingerprint
    return found
