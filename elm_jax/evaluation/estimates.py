"""Means with resampled errors, of which intervals and comparisons are made.

An estimate keeps, for each dataset, the mean and by how much each resample misses it.
Estimates of one set of rows are resampled by the same draws: their difference is the
estimate of the paired difference, and several can be looked at together.

Rows are resampled as `statistics` says; the ends of an interval are percentiles. They
have no width where all rows agree, and are NaN where a dataset has a single row. Where
an expert was trained with several seeds, its score is the mean over these trainings,
and another training is part of what may vary: each resample also weighs the trainings'
distances from their mean by random normal numbers, over the root of a random variance
with one degree of freedom less than there are trainings. That is Student's t, as there
are too few trainings to draw from: three, drawn with replacement, would give intervals
of half the width that they need.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import results, statistics

_OUTSIDE = 0.025  # of resamples, on each side of a 95 % interval
_NORMAL = 1.959963984540054  # standard deviations to that end
_BLOCK_SIZE = 2_000_000  # Entries of resampled counts drawn at once, to bound memory.


class Draws:
    """How often each resample draws each row; the same whenever it is asked for.

    Args:
      seed: Of the draws. Those of a dataset depend on it and the dataset's name only.
      num_resamples: Number of resamples.
    """

    def __init__(self, *, seed: int = 0, num_resamples: int = 1000) -> None:
        self.seed = seed
        self.num_resamples = num_resamples
        self._times: dict[tuple[str, int], np.ndarray] = {}

    def times(self, dataset: str, num_rows: int) -> np.ndarray:
        """Returns uint8 [num_resamples, num_rows], rows in the order of their ids."""
        key = (dataset, num_rows)
        if key not in self._times:
            rng = np.random.default_rng(self._sequence(dataset))
            block = max(1, _BLOCK_SIZE // num_rows)
            parts = []
            for start in range(0, self.num_resamples, block):
                size = min(block, self.num_resamples - start)
                drawn = rng.integers(num_rows, size=(size, num_rows))
                drawn += num_rows * np.arange(size)[:, np.newaxis]
                times = np.bincount(drawn.ravel(), minlength=size * num_rows)
                # More than 255 draws of one row do not happen: 1e-500 for many rows.
                parts.append(times.reshape(size, num_rows).astype(np.uint8))
            self._times[key] = np.concatenate(parts)
        return self._times[key]

    def folds(self, dataset: str, num_rows: int, num_folds: int) -> np.ndarray:
        """Returns int64 [num_rows], the part to which each row belongs."""
        rng = np.random.default_rng([self.seed, zlib.crc32(dataset.encode()), 1])
        return rng.permutation(num_rows) % num_folds

    def trainings(self, who: str, number: int) -> np.ndarray:
        """Returns float64 [num_resamples, number], weights of so many trainings.

        Their weighted distances from their mean are a draw of its error.
        """
        rng = np.random.default_rng([self.seed, zlib.crc32(who.encode()), 2])
        weights = rng.normal(size=(self.num_resamples, number))
        spread = np.sqrt(rng.chisquare(number - 1, size=(self.num_resamples, 1)))
        return weights / spread / math.sqrt(number)

    def _sequence(self, dataset: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, zlib.crc32(dataset.encode())])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Means over prompts on some datasets, and how far resamples are from them.

    Attributes:
      datasets: Names, in order.
      means: float64 [datasets], in the unit of the scores.
      errors: float64 [resamples, datasets]; NaN for a dataset of one row.
      num_rows: Rows of each dataset.
      rows: What tells these rows from others; equal for what may be subtracted.
      num_trainings: Training seeds behind it; the fewer of two, in a difference.
      has_tails: Whether its errors are Student's, of few trainings, which may have no
        variance.
    """

    datasets: tuple[str, ...]
    means: np.ndarray
    errors: np.ndarray
    num_rows: tuple[int, ...]
    rows: tuple[int, ...]
    num_trainings: int = 1
    has_tails: bool = False

    def of(self, dataset: str) -> "Estimate":
        """Returns the part that is of one dataset."""
        j = self.datasets.index(dataset)
        return Estimate(
            (dataset,),
            self.means[j : j + 1],
            self.errors[:, j : j + 1],
            self.num_rows[j : j + 1],
            self.rows[j : j + 1],
            self.num_trainings,
            self.has_tails,
        )

    @property
    def mean(self) -> float:
        """The mean over datasets."""
        return float(self.means.mean())

    @functools.cached_property
    def interval(self) -> results.Interval:
        """The mean over datasets with its 95 % interval, percentiles of resamples."""
        total = sum(self.num_rows)
        if np.isnan(self.errors).any():
            return results.Interval(self.mean, num_rows=total)
        low, high = np.quantile(self.error, [_OUTSIDE, 1 - _OUTSIDE])
        return results.Interval(
            self.mean, self.mean + float(low), self.mean + float(high), total
        )

    @property
    def error(self) -> np.ndarray:
        """By how much each resample misses the mean over datasets."""
        return self.errors.mean(axis=1)

    @functools.cached_property
    def scale(self) -> float:
        """The standard error of a normal distribution with this interval.

        Or the errors' own, if that is greater: choices that differ in a few resamples
        have no width, and great errors.
        """
        found = self.interval
        width = (found.high - found.low) / (2 * _NORMAL)
        return width if self.has_tails else max(width, float(self.error.std()))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Returns the paired difference.

        Raises:
          DataError: The two are not of the same rows of the same tasks.
        """
        if (self.datasets, self.rows) != (other.datasets, other.rows):
            raise errors.DataError(
                found=f"different rows in two scores on {', '.join(self.datasets)}",
                expected="two models scored on the same rows of the same tasks",
                do="Score both on the same tasks, split and number of rows",
            )
        return dataclasses.replace(
            self,
            means=self.means - other.means,
            errors=self.errors - other.errors,
            num_trainings=min(self.num_trainings, other.num_trainings),
            has_tails=self.has_tails or other.has_tails,
        )


def estimate(
    trainings: Sequence[statistics.Columns], draws: Draws, *, who: str = ""
) -> Estimate:
    """Returns the mean over datasets of means over prompts, and its errors.

    Args:
      trainings: The results of each training of one model, on the same rows.
      draws: How rows are resampled.
      who: Whose trainings these are; two that share it share the errors of training.

    Raises:
      DataError: There is no column, one without rows, or trainings have other rows.
    """
    statistics.check(trainings[0])
    datasets = sorted({dataset for dataset, _ in trainings[0]})
    parts = [_of_dataset(trainings, name, draws) for name in datasets]
    by_training = np.stack([one.by_training for one in parts], axis=1)
    of_rows = Estimate(
        tuple(datasets),
        by_training.mean(axis=0),
        np.stack([one.errors for one in parts], axis=1),
        tuple(one.num_rows for one in parts),
        tuple(one.rows for one in parts),
    )
    return of_trainings(of_rows, by_training, draws, who=who)


def of_trainings(
    one: Estimate, by_training: np.ndarray, draws: Draws, *, who: str
) -> Estimate:
    """Returns an estimate whose errors are those of its trainings, too.

    Args:
      one: With the errors of rows alone.
      by_training: [trainings, datasets], the means of each training.
      draws: How these are weighed.
      who: Whose trainings these are.
    """
    number = len(by_training)
    if number == 1:
        return one
    apart = by_training - by_training.mean(axis=0)
    errors_of_both = one.errors + draws.trainings(who, number) @ apart
    return dataclasses.replace(
        one, errors=errors_of_both, num_trainings=number, has_tails=True
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    by_training: np.ndarray  # means [S]
    errors: np.ndarray  # of the mean over trainings [B]
    num_rows: int
    rows: int


def _of_dataset(
    trainings: Sequence[statistics.Columns], dataset: str, draws: Draws
) -> _Part:
    owns = [statistics.of_dataset(one, dataset) for one in trainings]
    tables = [statistics.table(own) for own in owns]
    ids, first = tables[0]
    for other, values in tables[1:]:
        if not (
            np.array_equal(ids, other)
            and np.array_equal(np.isnan(first), np.isnan(values))
        ):
            raise errors.DataError(
                found=f"trainings of one expert with different rows of {dataset}",
                expected="all scored on the same rows",
                do="Score them by one configuration",
            )
    by_training = np.array([statistics.prompt_mean(values) for _, values in tables])
    average = np.mean([values for _, values in tables], axis=0)
    point = statistics.prompt_mean(average)
    if len(ids) == 1:
        missed = np.full(draws.num_resamples, math.nan)
    else:
        missed = statistics.resampled(average, draws.times(dataset, len(ids))) - point
    return _Part(by_training, missed, len(ids), rows_key(sorted(owns[0]), ids, average))


def rows_key(
    tasks: Sequence[tuple[str, str]], ids: np.ndarray, table: np.ndarray
) -> int:
    """Returns a number that tells tasks, ids of rows, and which lack, from others."""
    known = np.packbits(np.isfinite(table)).tobytes()
    return zlib.crc32(
        known, zlib.crc32(ids.tobytes(), zlib.crc32(repr(tasks).encode()))
    )
