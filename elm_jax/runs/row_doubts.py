"""Doubts about the experts behind the rows of a report."""

from collections.abc import Iterator, Mapping

from elm_jax.evaluation import naming, row_columns
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.runs.whole_trainings import WholeTrainings


def of(
    all_rows: RowColumns,
    newest: RowColumns,
    *,
    on_disk: Mapping[naming.Folder, str],
    trainings: WholeTrainings,
) -> Iterator[str]:
    """Yields a sentence for each doubt.

    Args:
      all_rows: All rows of what is shown.
      newest: The rows that no later one replaces.
      on_disk: Fingerprints of the experts that are in the folders of rows now.
      trainings: The newest ones whose trainings have all cells.
    """
    chosen: dict[str, dict[tuple[object, ...], set[str]]] = {}
    no_experts = all_rows.take(~row_columns.are_experts(all_rows))
    cell = ("task", "split", "training_seed", "library")
    for name, fingerprint, *of_cell in no_experts.distinct(
        "expert", "expert_fingerprint", *cell
    ):
        task, split, seed, library = of_cell
        of_cells = chosen.setdefault(name, {})
        of_cells.setdefault((task, split, seed if library else None), set()).add(
            fingerprint
        )
    for label, by_cell in sorted(chosen.items()):
        tasks = {
            task
            for (task, *_), fingerprints in by_cell.items()
            if len(fingerprints) > 1
        }
        if tasks:
            yield (
                f"{label} was scored with several experts on {len(tasks)} tasks:"
                " the newest row counts."
            )
    shown = {*newest.distinct("expert", "library")}
    left_out = [
        name
        for name, library in all_rows.distinct("expert", "library")
        if library and (name, library) not in shown
    ]
    for name in sorted({*left_out}):
        yield (
            f"{name} was scored with {left_out.count(name)} more libraries, which are"
            " left out: they are older, or were not scored on all tasks."
        )
    current = {(name, fingerprint) for (name, _), fingerprint in on_disk.items()}
    stale = {
        name
        for name, source, fingerprint in newest.distinct(
            "expert", "source", "expert_fingerprint"
        )
        if (name, source) in on_disk and (name, fingerprint) not in current
    }
    for name in sorted(stale):
        yield (
            f"{name} was trained again since it was scored: its scores are those of"
            " the old training."
        )
    for name, number in sorted(trainings.partly.items()):
        yield (
            f"{number} trainings of {name} are left out: they were not scored on"
            " all tasks that its other trainings were scored on."
        )
    for name in sorted(trainings.mixed):
        yield (
            f"{name} is shown as one training, and its rows are of several: none"
            " of them was scored on all tasks, so the newest row of each counts."
        )
    silent = int((~newest.coded("kind").are(bool)).sum())
    if silent:
        yield (
            f"{silent} of {len(newest)} rows tell neither the kind of their"
            " expert nor the true protocol, as those of release 0.1: a merged"
            " expert among them may be taken for a single one."
        )
