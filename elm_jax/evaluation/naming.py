"""Names of experts in tables: one for each, however many share a name."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from elm_jax import errors
from elm_jax.evaluation import results

Identity = tuple[str, str]  # name and fingerprint


def newest(rows: Iterable[results.ResultRow]) -> list[results.ResultRow]:
    """Returns rows without those that later ones replace.

    Of a strategy the newest row of each task counts: what `retrieved` stands for
    changes when its library grows. Of a folder the expert counts that was scored last:
    one that was trained again replaces the old one on all tasks, so that no table
    mixes the two. Rows of release 0.1, which do not tell whose they are nor by which
    protocol, give way to newer ones of the same name on the same task.
    """
    kept: dict[tuple[object, ...], results.ResultRow] = {}
    owners: dict[tuple[str, str], str] = {}  # the newest fingerprint of each folder
    for row in rows:
        cell = (row.task, row.split, row.metric, row.protocol, row.seed)
        who: tuple[str, ...] = (row.expert, row.base_fingerprint)
        if row.is_expert:
            who = (*who, row.source, row.expert_fingerprint)
            owners[row.expert, row.source] = row.expert_fingerprint
        key = (*who, row.vocabulary, *cell)
        kept.pop(key, None)
        kept[key] = row
    told = {_place(row) for row in kept.values() if row.kind}
    return [
        row
        for row in kept.values()
        if not _is_replaced(row, owners) and (row.kind or _place(row) not in told)
    ]


def _place(row: results.ResultRow) -> tuple[str, ...]:
    return (row.expert, row.base_fingerprint, row.task, row.split, row.metric)


def _is_replaced(row: results.ResultRow, owners: dict[tuple[str, str], str]) -> bool:
    # Rows of release 0.1 do not tell their folder: none of them is dropped.
    if not (row.is_expert and row.source):
        return False
    return owners[row.expert, row.source] != row.expert_fingerprint


def check_comparable(rows: Iterable[results.ResultRow], fields: Iterable[str]) -> None:
    """Raises DataError if rows of one task and metric differ in one of some fields.

    Such as rows of two bases, which no table may mix.
    """
    for field in fields:
        known: dict[tuple[str, str, str], object] = {}
        for row in rows:
            value = getattr(row, field)
            other = known.setdefault((row.task, row.split, row.metric), value)
            if other != value:
                raise errors.DataError(
                    errors.explain(
                        found=f"rows of {row.task}, {row.split} with {field} {other!r}"
                        f" and {value!r}",
                        expected=f"one {field} for all rows of a task",
                        do=f"Choose one in the report: set {field}"
                        f"{' (random_seed)' if field == 'seed' else ''}, or"
                        " score into another result file",
                    )
                )


def told_apart(rows: Sequence[results.ResultRow]) -> list[results.ResultRow]:
    """Returns rows in whose `expert` each expert has a name of its own.

    An expert that shares its name with another gets what tells the two apart in
    brackets: its folder, else also its training seed and steps, else its fingerprint.
    """
    owners: dict[str, dict[Identity, results.ResultRow]] = {}
    for row in rows:
        if row.is_expert:
            identity = (row.expert, row.expert_fingerprint)
            owners.setdefault(row.expert, {}).setdefault(identity, row)
    labels: dict[Identity, str] = {}
    for name, found in owners.items():
        if len(found) > 1:
            labels |= dict(zip(found, _labels(name, list(found.values())), strict=True))
    return [
        dataclasses.replace(row, expert=label)
        if row.is_expert and (label := labels.get((row.expert, row.expert_fingerprint)))
        else row
        for row in rows
    ]


def _labels(name: str, rows: Sequence[results.ResultRow]) -> list[str]:
    """Returns a label for each of several experts of one name, in the same order."""
    parts = [
        (
            pathlib.PurePosixPath(row.source).parent.name,
            f"seed {row.training_seed}, {row.checkpoint_step} steps",
            row.expert_fingerprint[:8],
        )
        for row in rows
    ]
    for count in range(1, 4):
        found = [", ".join(filter(None, part[:count])) for part in parts]
        if len(set(found)) == len(found):
            return [f"{name} ({text})" for text in found]
    raise ValueError(f"experts {name!r} of one fingerprint")  # no two are
