"""Which expert to look at: best single and oracle, as views of result rows.

Nothing is scored here. A choice names an expert for every task; `view` then relabels
the rows of the chosen experts, so that they read like the rows of one model.

Best single and oracle are chosen among single experts by their scores. The first is
chosen on validation rows and reported on test rows. The second is the paper's: chosen
on the very rows that are reported, so it is an upper bound and not a method, and the
more experts there are, the more of it is luck.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results, row_columns
from elm_jax.evaluation.row_columns import Coded, RowColumns


def select(
    rows: Iterable[results.ResultRow],
    *,
    split: str,
    metric: str,
    tasks: Sequence[str] | None = None,
    expert: str | None = None,
) -> RowColumns:
    """Returns the rows of one split and metric, of the tasks or expert if given."""
    selected = row_columns.of(rows).where(metric=metric, split=split)
    if tasks is not None:
        selected = selected.among("task", frozenset(tasks))
    return selected if expert is None else selected.where(expert=expert)


def single_experts(rows: Iterable[results.ResultRow]) -> RowColumns:
    """Returns the rows of experts that may be chosen; see `is_single_expert`."""
    columns = row_columns.of(rows)
    return columns.take(row_columns.are_single_experts(columns))


def best_singles(rows: Iterable[results.ResultRow]) -> list[str]:
    """Returns the experts with the best mean over datasets of means over prompts.

    Args:
      rows: Rows of single experts, of one split and metric; pass validation rows
        and report the expert's test rows.

    Returns:
      One name, or several in order where means are equal: which of them is called the
      best single expert is then a matter of names.

    Raises:
      DataError: There is no row, or an expert lacks a task that another has.
    """
    experts, tasks, scores = grid(rows)
    places: dict[str, list[int]] = {}
    for place, (dataset, _) in enumerate(tasks):
        places.setdefault(dataset, []).append(place)
    by_dataset = [
        np.ascontiguousarray(scores[:, of_dataset]).mean(axis=1)
        for of_dataset in places.values()
    ]
    means = np.stack(by_dataset, axis=1).mean(axis=1)
    return [experts[place] for place in np.flatnonzero(means == means.max())]


def oracle(rows: Iterable[results.ResultRow]) -> dict[str, str]:
    """Returns the expert with the best score for every task.

    Args:
      rows: Rows of single experts, of one split and metric.

    Returns:
      Expert by task; the first by name where scores are equal.

    Raises:
      DataError: There is no row, or an expert lacks a task that another has.
    """
    experts, tasks, scores = grid(rows)
    best = scores.argmax(axis=0)  # of equals the first one
    return {task: experts[i] for (_, task), i in zip(tasks, best, strict=True)}


def everywhere(expert: str, rows: Iterable[results.ResultRow]) -> dict[str, str]:
    """Returns the choice of one expert for every task of the rows."""
    return {task: expert for (task,) in row_columns.of(rows).distinct("task")}


def view(
    rows: Iterable[results.ResultRow], choice: Mapping[str, str], *, label: str
) -> RowColumns:
    """Returns the rows of the chosen experts, as rows of an expert named `label`.

    Args:
      rows: Rows of one split and metric.
      choice: Expert by task.
      label: The name to give them, such as `oracle`.

    Raises:
      DataError: A chosen expert has no row, or several, on its task.
    """
    chosen = rows_of(rows, choice)
    have = sorted(chosen.coded("task").listed())
    if have != sorted(choice):
        wrong = [task for task in sorted(choice) if have.count(task) != 1][0]
        raise errors.DataError(
            found=f"{have.count(wrong)} rows of {choice[wrong]} on {wrong}",
            expected="one row for each chosen expert and task",
            do="Score the chosen experts on these tasks; select one split,"
            " metric and protocol",
        )
    return chosen.replaced(expert=Coded(np.zeros(len(chosen), np.int32), [label]))


def rows_of(rows: Iterable[results.ResultRow], choice: Mapping[str, str]) -> RowColumns:
    """Returns the rows of the chosen experts, under their own names."""
    columns = row_columns.of(rows)
    experts, tasks = (columns.coded(name) for name in ("expert", "task"))
    codes = {name: code for code, name in enumerate(experts.values)}
    expert_codes = [codes.get(choice.get(task), -1) for task in tasks.values]
    return columns.take(np.array(expert_codes, np.int64)[tasks.codes] == experts.codes)


def grid(
    rows: Iterable[results.ResultRow],
) -> tuple[list[str], list[tuple[str, str]], np.ndarray]:
    """Returns the scores of experts on tasks, after a check that none is missing.

    Returns:
      Names of experts in order; (dataset, task) in the order of tasks' names; and
      float64 [experts, tasks], of two rows the last one.

    Raises:
      DataError: There is no row, or an expert lacks a task that another has.
    """
    columns = row_columns.of(rows)
    experts = sorted({name for (name,) in columns.distinct("expert")})
    datasets = dict(columns.distinct("task", "dataset"))
    tasks = sorted(datasets)
    if not tasks or len(columns) != len(experts) * len(tasks):
        raise _uneven(columns, experts, tasks)
    scores = np.full((len(experts), len(tasks)), np.nan)
    rank = {name: place for place, name in enumerate(experts)}
    place_of = {name: place for place, name in enumerate(tasks)}
    scores[
        _numbered(columns.coded("expert"), rank),
        _numbered(columns.coded("task"), place_of),
    ] = columns.coded("value").array()
    if np.isnan(scores).any():
        raise _uneven(columns, experts, tasks)
    return experts, [(datasets[task], task) for task in tasks], scores


def _numbered(field: Coded, numbers: Mapping[str, int]) -> np.ndarray:
    """Returns the number of each row's value; -1 for a value of no row."""
    return np.array([numbers.get(value, -1) for value in field.values])[field.codes]


def _uneven(
    rows: RowColumns, experts: Sequence[str], tasks: Sequence[str]
) -> errors.DataError:
    scored: dict[str, set[str]] = {name: set() for name in experts}
    for name, task in rows.distinct("expert", "task"):
        scored[name].add(task)
    lacking = [name for name in experts if scored[name] != {*tasks}]
    return errors.DataError(
        found=f"{len(rows)} rows for {len(experts)} experts and {len(tasks)} tasks"
        + (f"; {lacking[0]} lacks a task" if lacking else ""),
        expected="one row for every expert and task",
        do="Score all experts on all tasks; select one split, metric and protocol",
    )
