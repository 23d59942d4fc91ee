"""The smallest difference that rows can show, for plans: before anything is scored."""

from collections.abc import Iterable, Mapping

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


def of_rows(rows: Iterable[results.ResultRow]) -> str:
    """Returns the same of rows that are scored already; of none, that it is unknown."""
    num_rows: dict[str, int] = {}
    for row in rows:
        num_rows[row.dataset] = max(row.num_examples, num_rows.get(row.dataset, 0))
    return describe(num_rows) if num_rows else "unknown: no rows are scored"
