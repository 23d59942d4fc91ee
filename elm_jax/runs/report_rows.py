"""What a report should show and result rows lack, with the names of it."""

import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results, row_columns, selection


def check(
    rows: Sequence[results.ResultRow],
    unseen: Collection[str],
    *,
    split: str,
    metrics: Collection[str],
    path: pathlib.Path,
) -> None:
    """Raises DataError if no row is of the unseen tasks, the split and a metric.

    Args:
      rows: All there are, at least one.
      unseen: Names of tasks.
      split: What is reported.
      metrics: What may be shown, the report's own first.
      path: Where the rows are from, for the message.
    """
    columns = row_columns.of(rows)
    unseen_rows = columns.among("task", unseen)
    if len(unseen_rows.where(split=split).among("metric", metrics)):
        return
    listed_rows = unseen_rows if len(unseen_rows) else columns

    def values_of(name: str) -> str:
        return listed({value for (value,) in listed_rows.distinct(name)})

    task_names = "them" if len(unseen_rows) else values_of("task")
    raise errors.DataError(
        found=f"no rows of {next(iter(metrics))} in split {split!r} for the unseen"
        f" tasks {listed(unseen)} in {path}",
        expected=f"some; it has rows of {task_names} in split {values_of('split')}, by"
        f" {values_of('metric')}",
        do="Correct split, metric or unseen_tasks of report.Report, or score these"
        " tasks with elm_eval",
    )


def check_same_data(rows: Iterable[results.ResultRow]) -> None:
    """Raises DataError if rows of one task, split and metric are of different data.

    This happens after a change of lengths, vocabulary, template or source; such scores
    cannot be compared. Rows of earlier versions do not record it.
    """
    columns = row_columns.of(rows)
    fingerprinted = columns.take(
        columns.coded("data_fingerprint").are(lambda m: m is not None)
    )
    first_rows: dict[tuple[str, str, str], results.ResultRow] = {}
    places = fingerprinted.groups("task", "split", "metric", "data_fingerprint").firsts
    for row in fingerprinted.take(places):
        first_row = first_rows.setdefault((row.task, row.split, row.metric), row)
        if first_row.data_fingerprint != row.data_fingerprint:
            raise errors.DataError(
                found=f"{first_row.expert} on {row.task} {row.split} was scored on"
                f" other tokens and texts ({first_row.data_fingerprint}) than"
                f" {row.expert} ({row.data_fingerprint})",
                expected="one vocabulary, length, template and source for all",
                do="Score both again with the same data into another result file",
            )


def check_same_examples(rows: Iterable[results.ResultRow]) -> None:
    """Raises DataError if rows of one task, split and metric are of other examples.

    This happens where some experts were scored on a few examples and others on all, or
    where one evaluation leaves out the queries of a retrieval. Rows of release 0.1 hash
    their scoring in another way, and are compared only with each other.
    """
    columns = row_columns.of(rows)
    is_silent = columns.coded("kind").are(lambda kind: not kind)
    names = ("task", "split", "metric")
    places = [columns.coded(name).codes for name in names]
    cells = row_columns.group(*places, is_silent)
    scored = [columns.coded(name).codes for name in ("scoring", "num_examples")]
    ways = row_columns.group(cells.of, *scored)
    # For each cell, how many ways there are in which it was scored.
    counts = np.bincount(cells.of[ways.firsts], minlength=len(cells.firsts))
    (several,) = np.nonzero(counts > 1)
    if len(several):
        example = columns[int(cells.firsts[several[0]])]
        by_scoring: dict[tuple[str, int], list[str]] = {}
        for row in columns.take(cells.of == several[0]):
            by_scoring.setdefault((row.scoring, row.num_examples), []).append(
                row.expert
            )
        parts = [f"{number} ({listed(who)})" for (_, number), who in by_scoring.items()]
        raise errors.DataError(
            found=f"scores of {example.task} {example.split} on different examples:"
            f" {', others on '.join(parts)}",
            expected="the same examples, scored in the same way, for all that"
            " one column compares",
            do="Score all of them by one configuration (MAX_EXAMPLES and"
            " retrieval included) into another result file",
        )


def tasks_without_rows(
    rows: Iterable[results.ResultRow],
    tasks_by_kind: Mapping[str, Collection[str]],
    *,
    split: str,
    metrics: Collection[str],
) -> Iterator[str]:
    """Yields a sentence for each kind of tasks some of which have no row.

    Args:
      rows: All there are.
      tasks_by_kind: Names of tasks, by the report's word for their kind.
      split: What is reported.
      metrics: What may be shown.
    """
    shown = row_columns.of(rows).where(split=split).among("metric", metrics)
    tasks_with_rows = {task for (task,) in shown.distinct("task")}
    for kind, names in tasks_by_kind.items():
        lacking = set(names) - tasks_with_rows
        if lacking:
            yield f"{kind} tasks without rows of split {split}: {listed(lacking)}."


def unequal(
    rows: Sequence[results.ResultRow],
    chosen_on: Sequence[results.ResultRow],
) -> Iterator[str]:
    """Yields a sentence for each lack that keeps rows from being compared.

    Args:
      rows: The rows of the reported split and metric.
      chosen_on: The rows by which the best single expert is chosen.
    """
    columns = row_columns.of(rows)
    all_tasks = {task for (task,) in columns.distinct("task")}
    for label, tasks in _compared(columns).items():
        if tasks != all_tasks:
            lacking = listed(all_tasks - tasks)
            yield f"No mean of {label}: it was not scored on {lacking}."
    if len(selection.single_experts(rows)) and not selection.single_experts(chosen_on):
        yield "No best single expert: none was scored on rows to choose it by."
    sizes: dict[str, dict[int, str]] = {}
    for row in columns.take(columns.groups("task", "num_examples").firsts):
        sizes.setdefault(row.task, {})[row.num_examples] = row.expert
    for task, by_size in sorted(sizes.items()):
        if len(by_size) > 1:
            parts = ", ".join(f"{who} on {n}" for n, who in sorted(by_size.items()))
            yield f"Not all of {task} have the same examples: {parts}."
    silent = int(columns.coded("inputs_cut").are(lambda share: share is None).sum())
    if silent:
        yield (
            f"{silent} of {len(rows)} rows are of an earlier version: they do not tell"
            " how many prompts are cut, nor which choices cannot be told apart."
        )


def _compared(rows: row_columns.RowColumns) -> dict[str, set[str]]:
    """Returns the tasks of base, baseline and strategies, in the order of tables."""
    shown = ("base", "multitask", "strategy")
    roles = row_columns.roles(rows)
    role_rows = rows.take(roles.are(shown.__contains__))
    tasks: dict[str, set[str]] = {}
    ranks: dict[str, int] = {}
    for place in role_rows.groups("expert", "kind", "task").firsts.tolist():
        row = role_rows[place]
        tasks.setdefault(row.expert, set()).add(row.task)
        ranks[row.expert] = results.ROLES.index(row.role)
    return {name: tasks[name] for name in sorted(tasks, key=ranks.__getitem__)}


def other_votes(tasks: Collection[str]) -> Iterator[str]:
    """Yields a sentence about tasks with votes for another than the scored expert."""
    if tasks:
        yield (
            f"No votes of {listed(tasks)}: they are for another expert than the one"
            " that was scored as retrieved."
        )


def lacking_claims(
    judged: Mapping[str, Collection[str]], with_rows: Mapping[str, Collection[str]]
) -> Iterator[str]:
    """Yields a sentence for each claim that cannot be judged.

    Args:
      judged: The names of experts that a claim compares, by its subject.
      with_rows: The names that have rows, by the same.
    """
    for subject, names in judged.items():
        lacking = set(names) - set(with_rows[subject])
        if names and lacking:
            yield (
                f"No claim about {subject}: no rows of {listed(lacking)} among"
                f" {listed(with_rows[subject])}."
            )


def listed(names: Collection[str], *, shown: int = 5) -> str:
    """Returns names in order; of many names, the first few.

    >>> listed({"b", "a"}), listed("gfedcba"), listed([])
    ('a, b', 'a, b, c, d, e and 2 more', 'none')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(sorted(names)[:shown])}{more}" if names else "none"
