"""Which rows of a result file a report shows, after a check that they go together."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from elm_jax.checkpoints import manifest
from elm_jax.evaluation import naming, results, selection


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
        self, store: results.ResultStore, only: Mapping[str, object], shown: Shown
    ) -> None:
        asked = {name: v for name, v in only.items() if v not in ("", None)}
        found = [
            row
            for row in store.rows()
            if all(getattr(row, name) == value for name, value in asked.items())
        ]
        self.store = store
        self._lying = _lying(store)
        self.newest = naming.newest(found, self._lying)
        self.all = shown.of(self.newest)
        self._before = shown.of(found)
        naming.check_comparable(self.all, shown.tables.values())
        # Of release 0.1, only the report tells which row is its merge. A name means
        # one expert on the whole page.
        self._named = naming.told_apart(
            [
                dataclasses.replace(row, kind="merged")
                if not row.kind and row.expert == shown.merged_expert
                else row
                for row in self.all
            ]
        )

    def of(
        self, tasks: Sequence[str], *, split: str, metric: str
    ) -> list[results.ResultRow]:
        """Returns the rows of some tasks; each expert has a name of its own in them."""
        return selection.select(self._named, split=split, metric=metric, tasks=tasks)

    def doubts(self) -> Iterator[str]:
        """Yields what is doubtful about whose the rows are, a sentence each."""
        chosen: dict[str, dict[tuple[str, str], set[str]]] = {}
        for row in self._before:
            if not row.is_expert:
                own = chosen.setdefault(row.expert, {})
                own.setdefault((row.task, row.split), set()).add(row.expert_fingerprint)
        for label, by_cell in sorted(chosen.items()):
            tasks = {task for (task, _), found in by_cell.items() if len(found) > 1}
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
        silent = sum(not row.kind for row in self.all)
        if silent:
            yield (
                f"{silent} of {len(self.all)} rows tell neither the kind of their"
                " expert nor the true protocol, as those of release 0.1: a merged"
                " expert among them may be taken for a single one."
            )


def _lying(store: results.ResultStore) -> dict[naming.Folder, str]:
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
