"""What result rows lack of what a report is to show, told by name."""

import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from elm_jax import errors
from elm_jax.evaluation import results, selection


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
    own = [row for row in rows if row.task in unseen]
    if any(row.split == split and row.metric in metrics for row in own):
        return
    known = own or rows
    of = "them" if own else listed({row.task for row in known})
    raise errors.DataError(
        found=f"no rows of {next(iter(metrics))} in split {split!r} for the unseen"
        f" tasks {listed(unseen)} in {path}",
        expected=f"some; it has rows of {of} in split"
        f" {listed({row.split for row in known})}, by"
        f" {listed({row.metric for row in known})}",
        do="Correct split, metric or unseen_tasks of report.Report, or score these"
        " tasks with elm_eval",
    )


def check_same_data(rows: Iterable[results.ResultRow]) -> None:
    """Raises DataError if rows of one task, split and metric are of different data.

    As after a change of lengths, vocabulary, template or source: such scores are not
    to be compared. Rows of earlier versions do not tell.
    """
    known: dict[tuple[str, str, str], results.ResultRow] = {}
    for row in rows:
        if row.data_fingerprint is None:
            continue
        other = known.setdefault((row.task, row.split, row.metric), row)
        if other.data_fingerprint != row.data_fingerprint:
            raise errors.DataError(
                found=f"{other.expert} on {row.task} {row.split} was scored on"
                f" other tokens and texts ({other.data_fingerprint}) than"
                f" {row.expert} ({row.data_fingerprint})",
                expected="one vocabulary, length, template and source for all",
                do="Score both again with the same data into another result file",
            )


def check_same_examples(rows: Iterable[results.ResultRow]) -> None:
    """Raises DataError if rows of one task, split and metric are of other examples.

    As where some experts were scored on a few examples, and others on all, or one
    evaluation leaves the queries of a retrieval out. Rows of release 0.1, whose hash
    of the scoring is another one, are compared among themselves.
    """
    groups: dict[tuple[object, ...], dict[tuple[str, int], list[str]]] = {}
    for row in rows:
        group = groups.setdefault((row.task, row.split, row.metric, not row.kind), {})
        group.setdefault((row.scoring, row.num_examples), []).append(row.expert)
    for (task, split, *_), found in groups.items():
        if len(found) > 1:
            parts = [f"{number} ({listed(who)})" for (_, number), who in found.items()]
            raise errors.DataError(
                found=f"scores of {task} {split} on different examples:"
                f" {', others on '.join(parts)}",
                expected="the same examples, scored in the same way, for all that"
                " one column compares",
                do="Score all of them by one configuration (MAX_EXAMPLES and"
                " retrieval included) into another result file",
            )


def tasks_without_rows(
    rows: Iterable[results.ResultRow],
    wanted: Mapping[str, Collection[str]],
    *,
    split: str,
    metrics: Collection[str],
) -> Iterator[str]:
    """Yields a sentence for each kind of tasks some of which have no row.

    Args:
      rows: All there are.
      wanted: Names of tasks by what the report calls them.
      split: What is reported.
      metrics: What may be shown.
    """
    there = {row.task for row in rows if row.split == split and row.metric in metrics}
    for kind, names in wanted.items():
        lacking = set(names) - there
        if lacking:
            yield f"{kind} tasks without rows of split {split}: {listed(lacking)}."


def unequal(
    rows: Sequence[results.ResultRow],
    chosen_on: Sequence[results.ResultRow],
) -> Iterator[str]:
    """Yields what the rows of unseen tasks lack to be compared, a sentence each.

    Args:
      rows: Those of the reported split and metric.
      chosen_on: Those on which the best single expert is chosen.
    """
    every = {row.task for row in rows}
    for label in _compared(rows):
        own = {row.task for row in rows if row.expert == label}
        if own and own != every:
            yield f"No mean of {label}: it was not scored on {listed(every - own)}."
    if selection.single_experts(rows) and not selection.single_experts(chosen_on):
        yield "No best single expert: none was scored on rows to choose it by."
    sizes: dict[str, dict[int, str]] = {}
    for row in rows:
        sizes.setdefault(row.task, {}).setdefault(row.num_examples, row.expert)
    for task, found in sorted(sizes.items()):
        if len(found) > 1:
            parts = ", ".join(f"{who} on {n}" for n, who in sorted(found.items()))
            yield f"Not all of {task} have the same examples: {parts}."
    silent = sum(row.inputs_cut is None for row in rows)
    if silent:
        yield (
            f"{silent} of {len(rows)} rows are of an earlier version: they do not tell"
            " how many prompts are cut, nor which choices cannot be told apart."
        )


def _compared(rows: Sequence[results.ResultRow]) -> list[str]:
    """Returns the names of base, baseline and strategies, in the order of tables."""
    shown = ("base", "multitask", "strategy")
    roles = {row.expert: row.role for row in rows if row.role in shown}
    return sorted(roles, key=lambda name: results.ROLES.index(roles[name]))


def other_votes(tasks: Collection[str]) -> Iterator[str]:
    """Yields a sentence about tasks whose votes are not those of what was scored."""
    if tasks:
        yield (
            f"No votes of {listed(tasks)}: they are for another expert than the one"
            " that was scored as retrieved."
        )


def lacking_claims(
    judged: Mapping[str, Collection[str]], there: Mapping[str, Collection[str]]
) -> Iterator[str]:
    """Yields a sentence for each claim that cannot be judged.

    Args:
      judged: The names of experts that a claim compares, by its subject.
      there: The names that have rows, by the same.
    """
    for subject, names in judged.items():
        lacking = set(names) - set(there[subject])
        if names and lacking:
            yield (
                f"No claim about {subject}: no rows of {listed(lacking)} among"
                f" {listed(there[subject])}."
            )


def listed(names: Collection[str], *, shown: int = 5) -> str:
    """Returns names in order, the first few if they are many.

    >>> listed({"b", "a"}), listed("gfedcba"), listed([])
    ('a, b', 'a, b, c, d, e and 2 more', 'none')
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(sorted(names)[:shown])}{more}" if names else "none"
