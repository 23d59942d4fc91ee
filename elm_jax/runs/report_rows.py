"""Which result rows a report shows, and what they lack of it, told by name."""

import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from elm_jax import errors
from elm_jax.evaluation import naming, results, selection


class ComparableRows:
    """The newest rows of a store, of one base, protocol, vocabulary and seed per task.

    Attributes:
      store: Where they are from.
      all: The rows.

    Args:
      store: Has the rows of all trainings, in the order they were written.
      only: Values that fields must have; "" and None ask for nothing.

    Raises:
      DataError: A task has rows of several, and none is chosen.
    """

    def __init__(self, store: results.ResultStore, only: Mapping[str, object]) -> None:
        found = naming.newest(store.rows())
        for field, value in only.items():
            if value not in ("", None):
                found = [row for row in found if getattr(row, field) == value]
        naming.check_comparable(found, only)
        self.store, self.all = store, found
        self._named: dict[tuple[str, ...], list[results.ResultRow]] = {}

    def of(
        self, tasks: Sequence[str], *, split: str, metric: str
    ) -> list[results.ResultRow]:
        """Returns the rows of some tasks; each expert has a name of its own in them."""
        key = tuple(tasks)
        if key not in self._named:
            own = set(tasks)
            rows = [row for row in self.all if row.task in own]
            self._named[key] = naming.told_apart(rows)
        return selection.select(self._named[key], split=split, metric=metric)


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
        errors.explain(
            found=f"no rows of {next(iter(metrics))} in split {split!r} for the unseen"
            f" tasks {listed(unseen)} in {path}",
            expected=f"some; it has rows of {of} in split"
            f" {listed({row.split for row in known})}, by"
            f" {listed({row.metric for row in known})}",
            do="Correct split, metric or unseen_tasks of report.Report, or score these"
            " tasks with elm_eval",
        )
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
                errors.explain(
                    found=f"{other.expert} on {row.task} {row.split} was scored on"
                    f" other tokens and texts ({other.data_fingerprint}) than"
                    f" {row.expert} ({row.data_fingerprint})",
                    expected="one vocabulary, length, template and source for all",
                    do="Score both again with the same data into another result file",
                )
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
    *,
    labels: Iterable[str],
) -> Iterator[str]:
    """Yields what the rows of unseen tasks lack to be compared, a sentence each.

    Args:
      rows: Those of the reported split and metric.
      chosen_on: Those on which the best single expert is chosen.
      labels: The strategies that are compared.
    """
    every = {row.task for row in rows}
    for label in labels:
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
