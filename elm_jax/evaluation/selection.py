"""Which expert to look at: best single and oracle, as views of result rows.

Nothing is scored here. A choice names an expert for every task; `view` then relabels
the rows of the chosen experts, so that they read like the rows of one model.

Best single and oracle are chosen among single experts by their scores. The first is
chosen on validation rows and reported on test rows. The second is the paper's: chosen
on the very rows that are reported, so it is an upper bound and not a method, and the
more experts there are, the more of it is luck.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results


def select(
    rows: Iterable[results.ResultRow],
    *,
    split: str,
    metric: str,
    tasks: Sequence[str] | None = None,
    expert: str | None = None,
) -> list[results.ResultRow]:
    """Returns the rows of one split and metric, of the tasks or expert if given."""
    wanted = None if tasks is None else frozenset(tasks)
    return [
        row
        for row in rows
        if row.metric == metric
        and row.split == split
        and (wanted is None or row.task in wanted)
        and (expert is None or row.expert == expert)
    ]


def single_experts(rows: Iterable[results.ResultRow]) -> list[results.ResultRow]:
    """Returns the rows of experts that may be chosen; see `is_single_expert`."""
    return [row for row in rows if row.is_single_expert]


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
    scores = _grid(rows)
    datasets = {
        row.task: row.dataset for one in scores.values() for row in one.values()
    }

    def mean_of(expert: str) -> float:
        groups: dict[str, list[float]] = {}
        for task in sorted(datasets):
            groups.setdefault(datasets[task], []).append(scores[expert][task].value)
        return float(np.mean([np.mean(values) for values in groups.values()]))

    means = {expert: mean_of(expert) for expert in sorted(scores)}
    best = max(means.values())
    return [expert for expert, mean in means.items() if mean == best]


def oracle(rows: Iterable[results.ResultRow]) -> dict[str, str]:
    """Returns the expert with the best score for every task.

    Args:
      rows: Rows of single experts, of one split and metric.

    Returns:
      Expert by task; the first by name where scores are equal.

    Raises:
      DataError: There is no row, or an expert lacks a task that another has.
    """
    scores = _grid(rows)
    tasks = sorted(next(iter(scores.values())))
    return {
        task: max(
            sorted(scores), key=lambda expert, task=task: scores[expert][task].value
        )
        for task in tasks
    }


def everywhere(expert: str, rows: Iterable[results.ResultRow]) -> dict[str, str]:
    """Returns the choice of one expert for every task of the rows."""
    return {row.task: expert for row in rows}


def view(
    rows: Iterable[results.ResultRow], choice: Mapping[str, str], *, label: str
) -> list[results.ResultRow]:
    """Returns the rows of the chosen experts, as rows of an expert named `label`.

    Args:
      rows: Rows of one split and metric.
      choice: Expert by task.
      label: The name to give them, such as `oracle`.

    Raises:
      DataError: A chosen expert has no row, or several, on its task.
    """
    chosen = [row for row in rows if choice.get(row.task) == row.expert]
    have = sorted(row.task for row in chosen)
    if have != sorted(choice):
        wrong = [task for task in sorted(choice) if have.count(task) != 1][0]
        raise errors.DataError(
            found=f"{have.count(wrong)} rows of {choice[wrong]} on {wrong}",
            expected="one row for each chosen expert and task",
            do="Score the chosen experts on these tasks; select one split,"
            " metric and protocol",
        )
    return [dataclasses.replace(row, expert=label) for row in chosen]


def _grid(
    rows: Iterable[results.ResultRow],
) -> dict[str, dict[str, results.ResultRow]]:
    """Returns rows by expert and task, after a check that none is missing."""
    grid: dict[str, dict[str, results.ResultRow]] = {}
    num_rows = 0
    for row in rows:
        grid.setdefault(row.expert, {})[row.task] = row
        num_rows += 1
    tasks = {task for one in grid.values() for task in one}
    if num_rows and num_rows == len(grid) * len(tasks):
        return grid
    lacking = [name for name in sorted(grid) if grid[name].keys() != tasks]
    raise errors.DataError(
        found=f"{num_rows} rows for {len(grid)} experts and {len(tasks)} tasks"
        + (f"; {lacking[0]} lacks a task" if lacking else ""),
        expected="one row for every expert and task",
        do="Score all experts on all tasks; select one split, metric and protocol",
    )
