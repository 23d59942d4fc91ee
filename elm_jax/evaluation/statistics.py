"""Means over prompts and datasets, and what they are when rows are drawn again.

The statistic is the paper's: a dataset's score is the mean over its prompts, the
total is the mean over datasets. What varies is which rows a dataset holds, so rows
are what the bootstrap draws: with replacement, within each dataset (datasets are
strata, not a sample), and a drawn row brings its results under all prompts, because
they are not independent. Prompts stay fixed; the interval says nothing about prompts
that nobody wrote. Two models are compared on the same rows, by the differences of
their results, which is far sharper than comparing two intervals.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results

# Resampled counts are used in blocks of about this many entries, to bound memory.
_BLOCK_SIZE = 2_000_000


class Column(NamedTuple):
    """The results of one model on one prompted task.

    Attributes:
      example_ids: int64 [n], the dataset rows, each once.
      values: float64 [n], the score of each row.
    """

    example_ids: np.ndarray
    values: np.ndarray


Key = tuple[str, str]  # dataset, task
Columns = Mapping[Key, Column]
"""Columns of one model by (dataset, task)."""


def columns(
    rows: Iterable[results.ResultRow],
    load: Callable[[results.ResultRow], Mapping[str, np.ndarray]],
) -> dict[tuple[str, str], Column]:
    """Returns the per-example results of one model's rows.

    Args:
      rows: Rows of one model, split and metric; at most one per task.
      load: Returns a row's per-example arrays, as `ResultStore.per_example` does.

    Raises:
      DataError: Two rows have the same task, or a row has no per-example values.
    """
    by_task: dict[tuple[str, str], Column] = {}
    for row in rows:
        arrays = load(row)
        key = (row.dataset, row.task)
        if key in by_task:
            raise unusable(row, "two rows")
        values = np.asarray(values_of(row, arrays), np.float64)
        by_task[key] = Column(np.asarray(arrays["example_ids"], np.int64), values)
    return by_task


def values_of(row: results.ResultRow, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the scores of a row's examples, of the type in which they are kept.

    Raises:
      DataError: There are none, or an example is there twice.
    """
    if row.metric not in arrays:
        raise unusable(row, "no per-example values")
    if not _are_different(np.asarray(arrays["example_ids"])):
        raise unusable(row, "an example that is there twice")
    return arrays[row.metric]


def unusable(row: results.ResultRow, problem: str) -> errors.DataError:
    """Returns the error for a row that cannot count among the rows of a model."""
    return errors.DataError(
        found=f"{problem} for {row.metric} of {row.expert} on {row.task}",
        expected="one row with per-example values for each task",
        do="Select rows of one expert, split and metric that is a mean over examples",
    )


def _are_different(ids: np.ndarray) -> bool:
    if (ids[1:] > ids[:-1]).all():  # as they mostly are
        return True
    return len(np.unique(ids)) == len(ids)


def of_dataset(by_task: Columns, dataset: str) -> dict[tuple[str, str], Column]:
    """Returns the columns of one dataset."""
    return {key: by_task[key] for key in by_task if key[0] == dataset}


def check(by_task: Columns) -> None:
    """Raises DataError if there is no column, or one without rows."""
    if not by_task or not all(len(column.values) for column in by_task.values()):
        raise errors.DataError(
            found="no results" if not by_task else "a task without rows",
            expected="one or more tasks with one or more rows each",
            do="Check which rows were selected",
        )


def mean(by_task: Columns) -> float:
    """Returns the mean over datasets of the mean over their prompts.

    Raises:
      DataError: There is no column, or one without rows.
    """
    check(by_task)
    datasets = sorted({dataset for dataset, _ in by_task})
    tables = [table(of_dataset(by_task, dataset))[1] for dataset in datasets]
    return float(np.mean([prompt_mean(values) for values in tables]))


def difference(first: Columns, second: Columns) -> dict[tuple[str, str], Column]:
    """Returns `first - second`, row by row; for `interval`.

    Raises:
      DataError: The two have not the same rows of the same tasks.
    """
    unlike = sorted(first.keys() ^ second.keys())
    differences: dict[tuple[str, str], Column] = {}
    for key in sorted(first.keys() & second.keys()):
        column, other_column = _sorted(first[key]), _sorted(second[key])
        if np.array_equal(column.example_ids, other_column.example_ids):
            differences[key] = Column(
                column.example_ids, column.values - other_column.values
            )
        else:
            unlike.append(key)
    if unlike:
        raise errors.DataError(
            found=f"different rows of {unlike[0][1]}"
            f" (and {len(unlike) - 1} other tasks)",
            expected="two models scored on the same rows of the same tasks",
            do="Score both on the same tasks, split and number of rows",
        )
    return differences


def _sorted(column: Column) -> Column:
    order = np.argsort(column.example_ids, kind="stable")
    return Column(column.example_ids[order], column.values[order])


def table(by_task: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of rows, and [rows, prompts], NaN where a prompt lacks a row."""
    keys = sorted(by_task)
    columns_of = [by_task[key] for key in keys]
    first_ids = columns_of[0].example_ids
    is_same = all(column.example_ids is first_ids for column in columns_of)
    if is_same and (first_ids[1:] > first_ids[:-1]).all():  # as they mostly are
        return first_ids, np.stack([column.values for column in columns_of], axis=1)
    ids = np.unique(np.concatenate([column.example_ids for column in columns_of]))
    values = np.full((len(ids), len(by_task)), np.nan)
    for position, column in enumerate(columns_of):
        values[np.searchsorted(ids, column.example_ids), position] = column.values
    return ids, values


def prompt_mean(values: np.ndarray) -> float:
    """Returns the mean over prompts of a table's means over rows."""
    return float(np.nanmean(values, axis=0).mean())


def resampled(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns [resamples] means over prompts of resampled rows.

    A prompt none of whose rows is drawn is left out of that mean.

    Args:
      values: [rows, prompts], NaN where a prompt lacks a row.
      times: [resamples, rows], how often each row is drawn.
    """
    has_value = np.isfinite(values).astype(np.float64)
    filled = np.where(has_value, values, 0.0)
    block = max(1, _BLOCK_SIZE // len(values))
    means: list[np.ndarray] = []
    for start in range(0, len(times), block):
        drawn = times[start : start + block].astype(np.float64)
        # Sums over drawn rows are matrix products.
        counts = drawn @ has_value
        prompt_means = (drawn @ filled) / np.maximum(counts, 1.0)
        means.append(
            (prompt_means * (counts > 0)).sum(axis=1) / (counts > 0).sum(axis=1)
        )
    return np.concatenate(means)
