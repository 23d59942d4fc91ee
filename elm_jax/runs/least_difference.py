"""The smallest difference that rows can show, for plans: before anything is scored."""

from collections.abc import Callable, Iterable, Mapping

from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import comparisons, results

_DIFFER = (0.1, 0.3)  # fractions of rows on which two models may differ


def describe(num_rows: Mapping[str, int]) -> str:
    """Returns what a comparison of two models can show, in words.

    >>> describe({"quail": 400, "dream": 100})
    '5.0 points if two models differ on 10% of the rows, 8.6 on 30% (500 rows)'

    Args:
      num_rows: Rows of each dataset, at least one.
    """
    least = [comparisons.least_difference(num_rows, differ=part) for part in _DIFFER]
    return (
        f"{least[0]:.1f} points if two models differ on {_DIFFER[0]:.0%} of the rows,"
        f" {least[1]:.1f} on {_DIFFER[1]:.0%} ({sum(num_rows.values()):,} rows)"
    )


def of_tasks(
    names: Iterable[str], split: str, num_rows_of: Callable[[str], int]
) -> str:
    """Returns the same of tasks, if the number of their rows is known.

    Args:
      names: The tasks' names; prompts of one dataset have the same rows.
      split: The split that is meant.
      num_rows_of: Returns how many rows of a task count, 0 if nobody knows.
    """
    num_rows: dict[str, int] = {}
    for name in names:
        dataset = getattr(task_registry.registry.task(name), "dataset", name)
        if dataset not in num_rows:
            num_rows[dataset] = num_rows_of(name)
    if not num_rows or not all(num_rows.values()):
        return "unknown before tokens are cached"
    return f"{split}: {describe(num_rows)}"


def of_rows(rows: Iterable[results.ResultRow]) -> str:
    """Returns the least difference for scored rows, or that none are scored."""
    num_rows: dict[str, int] = {}
    for row in rows:
        num_rows[row.dataset] = max(row.num_examples, num_rows.get(row.dataset, 0))
    return describe(num_rows) if num_rows else "unknown: no rows are scored"
