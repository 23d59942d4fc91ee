"""Names of experts in tables: one for each, however many share a name."""

import pathlib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results, row_columns
from elm_jax.evaluation.row_columns import Coded, RowColumns

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
      kind: The expert's kind, as its manifest has it.
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
) -> RowColumns:
    """Returns the rows that no later row replaces.

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
    columns = row_columns.of(rows)
    newest_rows = columns.take(_last_of_each(columns))
    # Those of release 0.1 give way; they tell no kind.
    silent = newest_rows.coded("kind").are(lambda kind: not kind)
    places = newest_rows.groups(*_PLACE)
    newest_rows = newest_rows.take(~(silent & places.have(~silent)[places.of]))
    alive = _alive(columns, current)
    # Rows of release 0.1 do not tell their folder: none of them is dropped.
    names = ("expert", "base_fingerprint", "expert_fingerprint")
    is_replaced = newest_rows.derived(
        lambda row: (
            row.is_expert
            and row.source != ""
            and tuple(getattr(row, name) for name in names) not in alive
        ),
        *(*names, "kind", "source"),
    ).are(bool)
    dead = {
        mark for (mark,) in newest_rows.take(is_replaced).distinct("expert_fingerprint")
    }
    return _of_newest_library(newest_rows.take(~is_replaced), dead)


_PLACE = ("expert", "base_fingerprint", "task", "split", "metric")


def _last_of_each(rows: RowColumns) -> np.ndarray:
    """Returns the places of the newest rows of all cells, in order."""
    is_expert = row_columns.are_experts(rows)
    has_library = rows.coded("library").are(bool)
    names = ("settings", "vocabulary", "protocol", "seed", "library")
    groups = row_columns.group(
        *(rows.coded(name).codes for name in (*_PLACE, *names)),
        is_expert.astype(np.int64),
        np.where(is_expert, rows.coded("expert_fingerprint").codes, 0),
        np.where(has_library, rows.coded("training_seed").codes, 0),
    )
    return np.sort(groups.lasts)


def _alive(
    rows: RowColumns, current: Mapping[Folder, str]
) -> set[tuple[str, str, str]]:
    """Returns name, base and fingerprint of the expert that counts in each folder."""
    expert_rows = rows.take(row_columns.are_experts(rows))
    names = ("expert", "base_fingerprint", "source", "expert_fingerprint")
    groups = expert_rows.groups(*names)
    order = groups.firsts[np.argsort(groups.lasts)]
    owners: dict[tuple[str, str, str], str] = {}
    for row in expert_rows.take(order):
        folder = (row.expert, row.base_fingerprint, row.source)
        lying = current.get((row.expert, row.source))
        if folder not in owners or owners[folder] != lying:
            owners[folder] = row.expert_fingerprint
    return {(name, base, owner) for (name, base, _), owner in owners.items()}


def _of_newest_library(rows: RowColumns, dead: Collection[str]) -> RowColumns:
    """Returns rows without a strategy's rows of older libraries.

    Of a library the rows of all training seeds stay, unless experts behind them have
    been replaced. Where several people score libraries side by side, one of these
    counts on all tasks: the one that was begun last of those that were scored on all of
    them, by one seed at least. If none was, the newest row of a task tells which one
    counts there.

    Args:
      rows: In the order they were written, one for each library and seed of it.
      dead: Fingerprints of experts that were replaced.
    """
    (places,) = np.nonzero(row_columns.roles(rows).are("strategy".__eq__))
    strategies = rows.take(places)
    every = [*strategies]
    are_dead = [not {*row.experts.values()}.isdisjoint(dead) for row in every]
    libraries = _whole_libraries(every, are_dead)
    names = ("settings", "vocabulary", "protocol", "seed")
    replaced: list[int] = []
    for group in strategies.groups(*_PLACE, *names).members():
        members = group.tolist()
        last = every[members[-1]]
        library = libraries.get(_strategy(last), last.library)
        of_it = [place for place in members if every[place].library == library]
        # A training whose experts were replaced counts only where no other one is.
        alive = [place for place in of_it if library and not are_dead[place]]
        newest = (alive or of_it)[-1]
        replaced += [
            place
            for place in members
            if place != newest
            and (not library or every[place].library != library or are_dead[place])
        ]
    is_kept = np.ones(len(rows), bool)
    is_kept[places[replaced]] = False
    return rows.take(is_kept)


def _whole_libraries(
    rows: Sequence[results.ResultRow], are_dead: Sequence[bool]
) -> dict[tuple[object, ...], str]:
    """Returns which library counts on all tasks, by strategy, split and metric.

    None is told of strategies with rows that do not tell their library.

    Args:
      rows: Of strategies, in the order they were written.
      are_dead: Which of them are of experts that were replaced.
    """
    tasks: dict[tuple[object, ...], set[str]] = {}
    scored: dict[tuple[object, ...], dict[str, dict[object, set[str]]]] = {}
    for row, is_dead in zip(rows, are_dead, strict=True):
        tasks.setdefault(_strategy(row), set()).add(row.task)
        if not row.library or not is_dead:
            seeds = scored.setdefault(_strategy(row), {}).setdefault(row.library, {})
            seeds.setdefault(row.training_seed, set()).add(row.task)
    library_of: dict[tuple[object, ...], str] = {}
    for strategy, libraries in scored.items():
        whole = [
            library
            for library, seeds in libraries.items()
            if tasks[strategy] in seeds.values()
        ]
        if whole and "" not in libraries:
            library_of[strategy] = whole[-1]
    return library_of


def _strategy(row: results.ResultRow) -> tuple[object, ...]:
    who = (row.expert, row.base_fingerprint, row.settings, row.vocabulary)
    return (*who, row.split, row.metric, row.protocol, row.seed)


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
    columns = row_columns.of(rows)
    _check_one("base_fingerprint", columns)
    # Rows of release 0.1 tell no vocabulary: that of their base, which is the same.
    _check_one("vocabulary", columns.take(columns.coded("vocabulary").are(bool)))
    _check_one("seed", columns)
    for tasks in map(set, tables):
        table = columns.among("task", tasks)
        is_silent = table.coded("kind").are(lambda kind: not kind)
        groups = row_columns.group(table.coded("metric").codes, is_silent)
        for members in groups.members():
            _check_one("protocol", table.take(members))


def _check_one(field: str, rows: RowColumns) -> None:
    places = rows.groups(field).firsts.tolist()
    if len(places) > 1:
        first, second = rows[places[0]], rows[places[1]]
        values = [getattr(row, field) for row in (first, second)]
        raise errors.DataError(
            found=f"rows with {field} {values[0]!r} ({_where(first)})"
            f" and {values[1]!r} ({_where(second)})",
            expected=f"one {field} for all that a mean or table compares",
            do=f"Choose one in the report: set {field}"
            f"{' (random_seed)' if field == 'seed' else ''}, or"
            " score into another result file",
        )


def _where(row: results.ResultRow) -> str:
    return f"{row.expert} on {row.task} {row.split}"


def strategies_told_apart(rows: Sequence[results.ResultRow]) -> RowColumns:
    """Returns rows in which strategies of one name get names that tell their options.

    Args:
      rows: Under the names that the file has.
    """
    columns = row_columns.of(rows)
    is_strategy = row_columns.roles(columns).are("strategy".__eq__)
    settings: dict[str, set[str]] = {}
    for name, settings_hash in columns.take(is_strategy).distinct("expert", "settings"):
        settings.setdefault(name, set()).add(settings_hash)
    several = {name for name, hashes in settings.items() if len(hashes) > 1}
    if not several:
        return columns
    return columns.replaced(
        expert=columns.derived(
            lambda row: (
                f"{row.expert} (settings {row.settings})"
                if row.settings and row.expert in several
                else row.expert
            ),
            *("expert", "settings"),
        )
    )


def told_apart(rows: Sequence[results.ResultRow]) -> RowColumns:
    """Returns rows with a different `expert` name for each expert.

    An expert that shares its name with another gets what tells the two apart in
    brackets: its folder, else also its training seed and steps, else its fingerprint.
    Trainings of one recipe with several seeds are one expert.
    """
    columns = row_columns.of(rows)
    owners: dict[str, dict[Identity, results.ResultRow]] = {}
    experts = columns.take(row_columns.are_experts(columns))
    for place in experts.groups("expert", "expert_fingerprint").firsts.tolist():
        row = experts[place]
        owners.setdefault(row.expert, {})[row.expert, row.expert_fingerprint] = row
    labels: dict[Identity, str] = {}
    for name, trainings in owners.items():
        groups = _by_recipe(trainings)
        if len(groups) > 1:
            first_rows = [trainings[members[0]] for members in groups]
            for members, label in zip(groups, _labels(name, first_rows), strict=True):
                labels |= dict.fromkeys(members, label)
    if not labels:
        return columns
    return columns.replaced(
        expert=columns.derived(
            lambda row: (
                labels.get((row.expert, row.expert_fingerprint), row.expert)
                if row.is_expert
                else row.expert
            ),
            *("expert", "expert_fingerprint", "kind"),
        )
    )


def averaged(rows: Iterable[results.ResultRow]) -> RowColumns:
    """Returns rows with one row for all trainings of an expert: their mean.

    Args:
      rows: Rows in which each expert has another name: from `told_apart`.
    """
    columns = row_columns.of(rows)
    groups = columns.groups("expert", "task", "split", "metric", "protocol")
    if len(groups.firsts) == len(columns):
        return columns
    firsts = columns.take(groups.firsts)
    several = [
        (place, members)
        for place, members in enumerate(groups.members())
        if len(members) > 1
    ]
    fields: dict[str, Coded] = {}
    for name, combine in _OF_SEVERAL.items():
        values, means = columns.coded(name).listed(), firsts.coded(name).listed()
        for place, members in several:
            means[place] = combine([values[i] for i in members.tolist()])
        fields[name] = Coded.of(means)
    return firsts.replaced(**fields)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _nothing(_: Sequence[Any]) -> None:
    return None


def _greatest(values: Sequence[float | None]) -> float | None:
    """Returns the greatest value; None if a value is not known."""
    numbers = [value for value in values if value is not None]
    return max(numbers) if len(numbers) == len(values) else None


def _greatest_of_each(
    values: Sequence[Mapping[str, float | None]],
) -> dict[str, float | None]:
    names = dict.fromkeys(name for by_name in values for name in by_name)
    return {
        name: _greatest([by_name.get(name) for by_name in values]) for name in names
    }


_OF_SEVERAL = {
    **{"value": _mean, "ties": _mean, "answers_cut": _mean},
    # Of one seed that knows some of the rows, a mean may not tell.
    **{"overlap": _most, "overlap_unknown": _most, "overlap_with": _greatest_of_each},
    **{"training_seed": _nothing, "source": lambda _: ""},
    **dict.fromkeys(("per_example_sha256", *results.PLACE_FIELDS), _nothing),
}


def _by_recipe(row_of: Mapping[Identity, results.ResultRow]) -> list[list[Identity]]:
    """Returns the trainings of each expert, of all that share a name."""
    groups: dict[object, list[Identity]] = {}
    for identity, row in row_of.items():
        has_recipe = row.recipe and row.training_seed is not None
        groups.setdefault(row.recipe if has_recipe else identity, []).append(identity)
    parted = []
    for trainings in groups.values():
        seeds = {row_of[identity].training_seed for identity in trainings}
        # Two trainings of one seed differ in what no recipe tells.
        parted += (
            [trainings]
            if len(seeds) == len(trainings)
            else [[training] for training in trainings]
        )
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
        labels = [", ".join(filter(None, part[:count])) for part in parts]
        if len(set(labels)) == len(labels):
            return [f"{name} ({text})" for text in labels]
    raise ValueError(f"experts {name!r} of one fingerprint")  # no two are
