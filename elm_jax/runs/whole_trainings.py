"""Which trainings of an expert may stand side by side: those with all of its cells."""

import collections
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import results, row_columns
from elm_jax.evaluation.row_columns import RowColumns

CELL = ("expert", "task", "split", "metric", "protocol")
"""Fields in which the trainings of an expert are equal."""


def cell(row: results.ResultRow) -> tuple[str, ...]:
    """Returns the values of `CELL`."""
    return (row.expert, row.task, row.split, row.metric, row.protocol)


class WholeTrainings(NamedTuple):
    """Rows of trainings that have all cells of the other trainings of their name.

    Attributes:
      rows: The rows.
      partly: The number of trainings that are left out, by name.
      mixed: Names of strategies no training of which has all cells, so that the newest
        rows are taken for one.
    """

    rows: RowColumns
    partly: dict[str, int]
    mixed: set[str]


def of(rows: RowColumns) -> WholeTrainings:
    """Returns whole trainings.

    Args:
      rows: In which each expert has a name of its own, in the order they were written.
    """
    is_strategy = row_columns.roles(rows).are("strategy".__eq__)
    is_expert = ~is_strategy & row_columns.are_experts(rows)
    has_library = is_strategy & rows.coded("library").are(bool)
    names = rows.coded("expert")
    trainings = row_columns.group(
        names.codes,
        is_strategy + 2 * is_expert + 4 * has_library,
        np.where(is_expert, rows.coded("expert_fingerprint").codes, 0),
        np.where(has_library, rows.coded("training_seed").codes, 0),
    )
    cells = rows.groups(*CELL)
    # Of each training, the number of its cells; of the base, none.
    pairs = row_columns.group(trainings.of, cells.of).firsts
    sizes = np.bincount(trainings.of[pairs], minlength=len(trainings.firsts))
    order = pairs[np.argsort(trainings.of[pairs], kind="stable")]
    cells_of = np.split(cells.of[order], np.cumsum(sizes)[:-1])
    is_training = (is_strategy | is_expert)[trainings.firsts]
    strategies = {name for (name,) in rows.take(is_strategy).distinct("expert")}
    has_training = is_strategy | is_expert
    by_name: dict[str, list[int]] = {}
    for place in np.flatnonzero(is_training).tolist():
        name = rows[int(trainings.firsts[place])].expert
        by_name.setdefault(name, []).append(place)
    partly: dict[str, int] = {}
    dropped: list[int] = []
    mixed = set[str]()
    for name, places in by_name.items():
        most = max(sizes[place] for place in places)
        if name in strategies:
            has_name = has_training & names.are(name.__eq__)
            if most < len(row_columns.group(cells.of[has_name]).firsts):
                mixed.add(name)
                continue
        sets = {place: np.sort(cells_of[place]).tobytes() for place in places}
        counts = collections.Counter(sets[p] for p in places if sizes[p] == most)
        # Of as many cells, those that most trainings have; of equals, the newest.
        whole = max(reversed(counts), key=counts.__getitem__)
        short = [place for place in places if sets[place] != whole]
        if short:
            partly[name] = len(short)
            dropped += short
    is_kept = ~np.isin(trainings.of, dropped)
    if mixed:
        is_mixed = names.are(mixed.__contains__)
        newest = np.zeros(len(rows), bool)
        newest[cells.lasts] = True
        is_kept &= newest | ~is_mixed
    kept_rows = rows if is_kept.all() else rows.take(is_kept)
    return WholeTrainings(kept_rows, partly, mixed)
