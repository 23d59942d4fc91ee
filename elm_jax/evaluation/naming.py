"""Names of experts in tables: one for each, however many share a name."""

import dataclasses
import pathlib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence

from elm_jax import errors
from elm_jax.evaluation import results

Identity = tuple[str, str]  # name and fingerprint
Folder = tuple[str, str]  # name and source


def check_is_no_label(
    name: str,
    kind: str,
    where: object = "expert_name",
    *,
    labels: Collection[str] = (),
) -> None:
    """Raises ConfigError if an expert is called as a strategy is.

    Their rows would be taken for each other's. A multitask expert bears its own label.

    Args:
      name: The expert's.
      kind: Likewise.
      where: Where the name is from, for the message.
      labels: Names of further strategies.
    """
    if name in {*results.STRATEGIES, *labels} and name != kind:
        raise errors.ConfigError(
            found=f"{kind} expert {name!r} ({where})",
            expected="a name that stands for no strategy:"
            f" {', '.join(dict.fromkeys([*results.STRATEGIES, *labels]))}",
            do="Train, merge or import it under another expert_name",
        )


def newest(
    rows: Iterable[results.ResultRow],
    current: Mapping[Folder, str] = types.MappingProxyType({}),
) -> list[results.ResultRow]:
    """Returns rows without those that later ones replace.

    Of a strategy the newest row of each task counts: what `retrieved` stands for
    changes when its library grows; where the same library was scored with several
    training seeds, the newest row of each seed. Of a folder one expert counts on all
    tasks, so that no table mixes two trainings: the one that lies there now if it has
    rows, else the one that was scored last. An expert is known by its fingerprint: a
    copy in another folder is the same one. Rows of release 0.1, which do not tell whose
    they are nor by which protocol, give way to newer ones of the same name on the same
    task.

    Args:
      rows: In the order they were written.
      current: Fingerprint of the expert that lies in a folder now, where that is known.
    """
    kept: dict[tuple[object, ...], results.ResultRow] = {}
    owners: dict[tuple[str, ...], str] = {}  # the fingerprint that counts, by folder
    for row in rows:
        cell = (row.task, row.split, row.metric, row.protocol, row.seed)
        who: tuple[str, ...] = (row.expert, row.base_fingerprint, row.settings)
        if row.is_expert:
            folder = (row.expert, row.base_fingerprint, row.source)
            who = (*who, row.expert_fingerprint)
            lying = current.get((row.expert, row.source))
            if folder not in owners or owners[folder] != lying:
                owners[folder] = row.expert_fingerprint
        key = (*who, row.vocabulary, *cell)
        if row.library:
            key = (*key, row.library, row.training_seed)
        kept.pop(key, None)
        kept[key] = row
    alive = {(name, base, owner) for (name, base, _), owner in owners.items()}
    told = {_place(row) for row in kept.values() if row.kind}
    found = [row for row in kept.values() if row.kind or _place(row) not in told]
    dead = {row.expert_fingerprint for row in found if _is_replaced(row, alive)}
    found = [row for row in found if not _is_replaced(row, alive)]
    return _of_newest_library(found, dead)


def _of_newest_library(
    rows: Sequence[results.ResultRow], dead: Collection[str]
) -> list[results.ResultRow]:
    """Returns rows without those of strategies that newer libraries replace.

    Those that differ from the newest in the training seed alone stay, unless experts
    behind them have been replaced.

    Args:
      rows: In the order they were written, one for each library and seed of it.
      dead: Fingerprints of experts that were replaced.
    """
    groups: dict[tuple[object, ...], list[results.ResultRow]] = {}
    for row in rows:
        if row.role == "strategy":
            groups.setdefault(_strategy_cell(row), []).append(row)
    replaced = set[int]()
    for own in groups.values():
        newest = own[-1]
        replaced |= {
            id(row)
            for row in own[:-1]
            if not row.library
            or row.library != newest.library
            or not {*row.experts.values()}.isdisjoint(dead)
        }
    return [row for row in rows if id(row) not in replaced]


def _strategy_cell(row: results.ResultRow) -> tuple[object, ...]:
    who = (row.expert, row.base_fingerprint, row.settings, row.vocabulary)
    return (*who, row.task, row.split, row.metric, row.protocol, row.seed)


def _place(row: results.ResultRow) -> tuple[str, ...]:
    return (row.expert, row.base_fingerprint, row.task, row.split, row.metric)


def _is_replaced(row: results.ResultRow, alive: set[tuple[str, ...]]) -> bool:
    # Rows of release 0.1 do not tell their folder: none of them is dropped.
    if not (row.is_expert and row.source):
        return False
    return (row.expert, row.base_fingerprint, row.expert_fingerprint) not in alive


def check_comparable(
    rows: Sequence[results.ResultRow], tables: Iterable[Collection[str]]
) -> None:
    """Raises DataError if means over some rows would mix what cannot be compared.

    All rows must be of one base, one vocabulary and one seed; those of a table, by one
    metric, of one protocol: ranked and written tasks may differ. What rows of release
    0.1 say is no more than what a user claimed; they are compared among themselves.

    Args:
      rows: All that are shown, or that choose what is shown.
      tables: The tasks of each table.
    """
    _check_one("base_fingerprint", rows)
    # Rows of release 0.1 tell no vocabulary: that of their base, which is the same.
    _check_one("vocabulary", (row for row in rows if row.vocabulary))
    _check_one("seed", rows)
    for tasks in map(set, tables):
        groups: dict[tuple[str, bool], list[results.ResultRow]] = {}
        for row in rows:
            if row.task in tasks:
                groups.setdefault((row.metric, not row.kind), []).append(row)
        for own in groups.values():
            _check_one("protocol", own)


def _check_one(field: str, rows: Iterable[results.ResultRow]) -> None:
    first = None
    for row in rows:
        first = first or row
        values = [getattr(one, field) for one in (first, row)]
        if values[0] != values[1]:
            raise errors.DataError(
                found=f"rows with {field} {values[0]!r} ({_where(first)})"
                f" and {values[1]!r} ({_where(row)})",
                expected=f"one {field} for all that a mean or table compares",
                do=f"Choose one in the report: set {field}"
                f"{' (random_seed)' if field == 'seed' else ''}, or"
                " score into another result file",
            )


def _where(row: results.ResultRow) -> str:
    return f"{row.expert} on {row.task} {row.split}"


def strategies_told_apart(
    rows: Sequence[results.ResultRow],
) -> list[results.ResultRow]:
    """Returns rows in which strategies of one name and other options have other names.

    Args:
      rows: Under the names that the file has.
    """
    settings: dict[str, set[str]] = {}
    for row in rows:
        if row.role == "strategy":
            settings.setdefault(row.expert, set()).add(row.settings)
    return [
        dataclasses.replace(row, expert=f"{row.expert} (settings {row.settings})")
        if row.settings and len(settings.get(row.expert, ())) > 1
        else row
        for row in rows
    ]


def told_apart(rows: Sequence[results.ResultRow]) -> list[results.ResultRow]:
    """Returns rows in whose `expert` each expert has a name of its own.

    An expert that shares its name with another gets what tells the two apart in
    brackets: its folder, else also its training seed and steps, else its fingerprint.
    Trainings of one recipe with several seeds are one expert.
    """
    owners: dict[str, dict[Identity, results.ResultRow]] = {}
    for row in rows:
        if row.is_expert:
            identity = (row.expert, row.expert_fingerprint)
            owners.setdefault(row.expert, {}).setdefault(identity, row)
    labels: dict[Identity, str] = {}
    for name, found in owners.items():
        groups = _by_recipe(found)
        if len(groups) > 1:
            first = [found[own[0]] for own in groups]
            for own, label in zip(groups, _labels(name, first), strict=True):
                labels |= dict.fromkeys(own, label)
    return [
        dataclasses.replace(row, expert=label)
        if row.is_expert and (label := labels.get((row.expert, row.expert_fingerprint)))
        else row
        for row in rows
    ]


def averaged(rows: Iterable[results.ResultRow]) -> list[results.ResultRow]:
    """Returns rows in which the trainings of an expert are one row, of their means.

    Args:
      rows: As `told_apart` returns them.
    """
    groups: dict[tuple[str, ...], list[results.ResultRow]] = {}
    for row in rows:
        key = (row.expert, row.task, row.split, row.metric, row.protocol)
        groups.setdefault(key, []).append(row)
    return [own[0] if len(own) == 1 else _average(own) for own in groups.values()]


def _average(rows: Sequence[results.ResultRow]) -> results.ResultRow:
    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return dataclasses.replace(
        rows[0],
        value=sum(row.value for row in rows) / len(rows),
        ties=mean(row.ties for row in rows),
        answers_cut=mean(row.answers_cut for row in rows),
        # Of one seed that knows some of the rows, a mean may not tell.
        overlap=max((r.overlap for r in rows if r.overlap is not None), default=None),
        overlap_unknown=max(
            (r.overlap_unknown for r in rows if r.overlap_unknown is not None),
            default=None,
        ),
        overlap_with={
            name: _greatest([r.overlap_with.get(name) for r in rows])
            for row in rows
            for name in row.overlap_with
        },
        training_seed=None,
        source="",
        per_example_sha256=None,
        **dict.fromkeys(results.PLACE_FIELDS),
    )


def _greatest(values: Sequence[float | None]) -> float | None:
    """Returns the greatest value; None if one of them is not known."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _by_recipe(found: Mapping[Identity, results.ResultRow]) -> list[list[Identity]]:
    """Returns the trainings of each expert, of all that share a name."""
    groups: dict[object, list[Identity]] = {}
    for identity, row in found.items():
        known = row.recipe and row.training_seed is not None
        groups.setdefault(row.recipe if known else identity, []).append(identity)
    parted = []
    for own in groups.values():
        seeds = {found[identity].training_seed for identity in own}
        # Two trainings of one seed differ in what no recipe tells.
        parted += [own] if len(seeds) == len(own) else [[one] for one in own]
    return parted


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
