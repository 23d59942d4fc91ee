"""Means over prompts and datasets, with bootstrap intervals over rows.

The statistic is the paper's: a dataset's score is the mean over its prompts, the
total is the mean over datasets. What varies is which rows a dataset holds, so rows
are what the bootstrap draws: with replacement, within each dataset (datasets are
strata, not a sample), and a drawn row brings its results under all prompts, because
they are not independent. Prompts stay fixed; the interval says nothing about prompts
that nobody wrote. Two models are compared on the same rows, by the differences of
their results, which is far sharper than comparing two intervals.

The ends are percentiles of the resampled means. They have no width where all rows
agree, and the ends are NaN where a dataset has a single row.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results

# Resampled counts are drawn in blocks of about this many entries, to bound memory.
_BLOCK_SIZE = 2_000_000


class Column(NamedTuple):
    """The results of one model on one prompted task.

    Attributes:
      example_ids: int64 [n], the dataset rows, each once.
      values: float64 [n], the score of each row.
    """

    example_ids: np.ndarray
    values: np.ndarray


Columns = Mapping[tuple[str, str], Column]
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
    found: dict[tuple[str, str], Column] = {}
    for row in rows:
        arrays = load(row)
        key = (row.dataset, row.task)
        problem = ""
        if key in found:
            problem = "two rows"
        elif row.metric not in arrays:
            problem = "no per-example values"
        elif len(np.unique(arrays["example_ids"])) < len(arrays["example_ids"]):
            problem = "an example that is there twice"
        if problem:
            raise errors.DataError(
                errors.explain(
                    found=f"{problem} for {row.metric} of {row.expert} on {row.task}",
                    expected="one row with per-example values for each task",
                    do="Select rows of one expert, split and metric that is a mean"
                    " over examples",
                )
            )
        values = np.asarray(arrays[row.metric], np.float64)
        found[key] = Column(np.asarray(arrays["example_ids"], np.int64), values)
    return found


def of_dataset(one: Columns, dataset: str) -> dict[tuple[str, str], Column]:
    """Returns the columns of one dataset."""
    return {key: column for key, column in one.items() if key[0] == dataset}


def mean(one: Columns) -> float:
    """Returns the mean over datasets of the mean over their prompts.

    Raises:
      DataError: There is no column, or one without rows.
    """
    return interval(one, num_resamples=1).mean


def interval(
    one: Columns, *, seed: int = 0, num_resamples: int = 1000, level: float = 0.95
) -> results.Interval:
    """Returns the mean over datasets of means over prompts, with an interval.

    A dataset's draws depend on the seed and its name only: other datasets and the
    order of anything do not change them.

    Args:
      one: The results of one model, or differences of two.
      seed: Seed of the resampling.
      num_resamples: Number of bootstrap resamples.
      level: Share of resampled means inside the interval, in (0, 1).

    Raises:
      DataError: There is no column, or one without rows.
    """
    datasets = sorted({dataset for dataset, _ in one})
    if not datasets or not all(len(column.values) for column in one.values()):
        raise errors.DataError(
            errors.explain(
                found="no results" if not datasets else "a task without rows",
                expected="one or more tasks with one or more rows each",
                do="Check which rows were selected",
            )
        )
    tables = [_table(of_dataset(one, dataset)) for dataset in datasets]
    num_rows = sum(len(table) for table in tables)
    point = float(np.mean([_prompt_mean(table) for table in tables]))
    if min(len(table) for table in tables) == 1:
        return results.Interval(point, num_rows=num_rows)
    means = [
        _resampled_means(table, seed=_seed(seed, dataset), num_resamples=num_resamples)
        for dataset, table in zip(datasets, tables, strict=True)
    ]
    outside = (1.0 - level) / 2.0
    low, high = np.quantile(np.mean(means, axis=0), [outside, 1.0 - outside])
    return results.Interval(point, float(low), float(high), num_rows)


def by_dataset(one: Columns, *, seed: int = 0) -> dict[str, results.Interval]:
    """Returns the interval of each dataset by name; `interval` gives their mean's."""
    datasets = sorted({dataset for dataset, _ in one})
    return {name: interval(of_dataset(one, name), seed=seed) for name in datasets}


def difference(one: Columns, other: Columns) -> dict[tuple[str, str], Column]:
    """Returns `one - other`, row by row; for `interval`.

    Raises:
      DataError: The two have not the same rows of the same tasks.
    """
    unlike = sorted(one.keys() ^ other.keys())
    found: dict[tuple[str, str], Column] = {}
    for key in sorted(one.keys() & other.keys()):
        ours, theirs = _sorted(one[key]), _sorted(other[key])
        if np.array_equal(ours.example_ids, theirs.example_ids):
            found[key] = Column(ours.example_ids, ours.values - theirs.values)
        else:
            unlike.append(key)
    if unlike:
        raise errors.DataError(
            errors.explain(
                found=f"different rows of {unlike[0][1]}"
                f" (and {len(unlike) - 1} other tasks)",
                expected="two models scored on the same rows of the same tasks",
                do="Score both on the same tasks, split and number of rows",
            )
        )
    return found


def _sorted(column: Column) -> Column:
    order = np.argsort(column.example_ids, kind="stable")
    return Column(column.example_ids[order], column.values[order])


def _table(one: Columns) -> np.ndarray:
    """Returns [rows, prompts], NaN where a prompt lacks a row."""
    ids = np.unique(np.concatenate([column.example_ids for column in one.values()]))
    table = np.full((len(ids), len(one)), np.nan)
    for position, key in enumerate(sorted(one)):
        column = one[key]
        table[np.searchsorted(ids, column.example_ids), position] = column.values
    return table


def _prompt_mean(table: np.ndarray) -> float:
    return float(np.nanmean(table, axis=0).mean())


def _resampled_means(
    table: np.ndarray, *, seed: np.random.SeedSequence, num_resamples: int
) -> np.ndarray:
    """Returns [num_resamples] means over prompts of resampled rows.

    A prompt none of whose rows is drawn is left out of that mean.
    """
    num_rows = len(table)
    known = np.isfinite(table).astype(np.float64)
    filled = np.where(known, table, 0.0)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_SIZE // num_rows)
    means: list[np.ndarray] = []
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        # A resample is how often each row is drawn; sums are then matrix products.
        drawn = rng.integers(num_rows, size=(size, num_rows))
        drawn += num_rows * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=size * num_rows)
        times = times.reshape(size, num_rows).astype(np.float64)
        counts = times @ known
        prompt_means = (times @ filled) / np.maximum(counts, 1.0)
        means.append(
            (prompt_means * (counts > 0)).sum(axis=1) / (counts > 0).sum(axis=1)
        )
    return np.concatenate(means)


def _seed(seed: int, dataset: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(dataset.encode())])
