"""Means with resampled errors, of which intervals and comparisons are made.

An estimate keeps, for each dataset, the mean and by how much each resample misses it.
Estimates of one set of rows are resampled by the same draws: their difference is the
estimate of the paired difference, and several can be looked at together.

Rows are resampled as `statistics` says; the ends of an interval are percentiles. What
resamples of n rows miss is too little by `sqrt((n - 1) / n)`, and is scaled up. Where
an expert was trained with several seeds, its score is the mean over these trainings,
and another training is part of what may vary: each resample also has a normal draw of
the trainings' mean, by their distances from it.

All of these variances are estimates, those of three trainings poor ones. So where a
normal distribution reaches some standard errors, an interval reaches as far as
Student's t does with the same probability. Its degrees of freedom are Welch's: n - 1 of
n rows and S - 1 of S trainings, joined by their parts of the variance. Adding up draws
of Student's t instead, for each of two experts, held the truth in 99 of 100 differences
of three trainings. An interval has no width where all rows agree, is NaN where a
dataset has a single row, and is cut at the ends of what a score can be.

References: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13;
Rao and Wu (1988), Resampling inference with complex survey data; Welch (1947), The
generalization of Student's problem when several different population variances are
involved.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

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

        Their weighted distances from their mean are a normal draw of its error.
        """
        return self.each_training(who, number).mean(axis=1)

    def each_training(self, who: str, number: int) -> np.ndarray:
        """Returns float64 [num_resamples, number, number], weights for each training.

        The distances of trainings from their mean, weighted by `[:, t]`, are a normal
        draw of how far another training in the place of training `t` may be from it.
        """
        rng = np.random.default_rng([self.seed, zlib.crc32(who.encode()), 2])
        weights = rng.normal(size=(self.num_resamples, number, number))
        return weights / math.sqrt(number - 1)

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
      trainings: How far the means of trainings are from their mean, float64 [trainings,
        datasets], by whose they are and how many. Of several models that share the
        datasets, each is multiplied by the root of the part that its variance has.
      bounds: The least and the greatest value that the mean can have.
      is_mirrored: Whether intervals end where resamples' errors are subtracted, and not
        added, as for errors that are skewed by a choice.
    """

    datasets: tuple[str, ...]
    means: np.ndarray
    errors: np.ndarray
    num_rows: tuple[int, ...]
    rows: tuple[int, ...]
    num_trainings: int = 1
    trainings: Mapping[tuple[str, int], np.ndarray] = dataclasses.field(
        default_factory=dict
    )
    bounds: tuple[float, float] = (0.0, 100.0)
    is_mirrored: bool = False

    def of(self, dataset: str) -> "Estimate":
        """Returns the estimate of one dataset."""
        j = self.datasets.index(dataset)
        return Estimate(
            (dataset,),
            self.means[j : j + 1],
            self.errors[:, j : j + 1],
            self.num_rows[j : j + 1],
            self.rows[j : j + 1],
            self.num_trainings,
            {
                name: deviations[:, j : j + 1]
                for name, deviations in self.trainings.items()
            },
            self.bounds,
            self.is_mirrored,
        )

    @property
    def mean(self) -> float:
        """The mean over datasets."""
        return float(self.means.mean())

    @functools.cached_property
    def interval(self) -> results.Interval:
        """The mean over datasets with its 95 % interval, percentiles of resamples."""
        if np.isnan(self.errors).any():
            return results.Interval(self.mean, num_rows=sum(self.num_rows))
        low, high = np.quantile(self.error, [_OUTSIDE, 1 - _OUTSIDE])
        if self.is_mirrored:
            low, high = -high, -low
        wider = self.reach(_NORMAL) / _NORMAL
        return self.between(self.mean + wider * low, self.mean + wider * high)

    def between(self, low: float, high: float) -> results.Interval:
        """Returns the mean with an interval around it, cut at the bounds."""
        low, high = (float(np.clip(end, *self.bounds)) for end in (low, high))
        return results.Interval(self.mean, low, high, sum(self.num_rows))

    @property
    def error(self) -> np.ndarray:
        """By how much each resample misses the mean over datasets."""
        return self.errors.mean(axis=1)

    @functools.cached_property
    def scale(self) -> float:
        """The standard error; NaN where a dataset has a single row.

        Of a normal distribution with these percentiles, or the errors' own, if that is
        greater: choices that differ in a few resamples have no width, and great errors.
        """
        if np.isnan(self.errors).any():
            return math.nan
        low, high = np.quantile(self.error, [_OUTSIDE, 1 - _OUTSIDE])
        return max(float(high - low) / (2 * _NORMAL), float(self.error.std()))

    def reach(self, normal: float) -> float:
        """Returns how many standard errors are as unlikely as `normal` normal ones."""
        if math.isinf(self._freedom):
            return normal
        return -float(special.stdtrit(self._freedom, special.ndtr(-normal)))

    @functools.cached_property
    def _freedom(self) -> float:
        """Degrees of freedom of the standard error; infinite without any error."""
        of_trainings = [
            (_variance(deviations.mean(axis=1)), number - 1)
            for (_, number), deviations in self.trainings.items()
        ]
        of_rows = self.errors.var(axis=0)
        for deviations in self.trainings.values():
            of_rows = np.maximum(0.0, of_rows - _variance(deviations))
        parts = of_trainings + [
            (variance / len(self.datasets) ** 2, number - 1)
            for variance, number in zip(of_rows, self.num_rows, strict=True)
        ]
        total = sum(variance for variance, _ in parts)
        below = sum(variance**2 / freedom for variance, freedom in parts)
        return float(total**2 / below) if below else math.inf

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
        none = np.zeros(())
        return dataclasses.replace(
            self,
            means=self.means - other.means,
            errors=self.errors - other.errors,
            num_trainings=min(self.num_trainings, other.num_trainings),
            trainings={
                name: self.trainings.get(name, none) - other.trainings.get(name, none)
                for name in {**self.trainings, **other.trainings}
            },
            bounds=(
                self.bounds[0] - other.bounds[1],
                self.bounds[1] - other.bounds[0],
            ),
            is_mirrored=self.is_mirrored or other.is_mirrored,
        )


def _variance(deviations: np.ndarray) -> np.ndarray:
    """Returns the variance of means, by distances [trainings, ...] from them."""
    number = len(deviations)
    return (deviations**2).sum(axis=0) / number / (number - 1)


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
    by_training = np.stack([part.by_training for part in parts], axis=1)
    of_rows = Estimate(
        tuple(datasets),
        by_training.mean(axis=0),
        np.stack([part.errors for part in parts], axis=1),
        tuple(part.num_rows for part in parts),
        tuple(part.rows for part in parts),
    )
    return of_trainings(of_rows, by_training, draws, who=who)


def of_trainings(
    of_rows: Estimate, by_training: np.ndarray, draws: Draws, *, who: str
) -> Estimate:
    """Returns an estimate whose errors include the variance over trainings.

    Args:
      of_rows: The estimate with the errors of rows alone.
      by_training: [trainings, datasets], the means of each training.
      draws: How these are weighed.
      who: Whose trainings these are.
    """
    number = len(by_training)
    if number == 1:
        return of_rows
    deviations = by_training - by_training.mean(axis=0)
    errors_of_both = of_rows.errors + draws.trainings(who, number) @ deviations
    return dataclasses.replace(
        of_rows,
        errors=errors_of_both,
        num_trainings=number,
        trainings={(who, number): deviations},
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
    parts = [statistics.of_dataset(columns, dataset) for columns in trainings]
    tables = [statistics.table(part) for part in parts]
    ids, first_values = tables[0]
    for other_ids, values in tables[1:]:
        if not (
            np.array_equal(ids, other_ids)
            and np.array_equal(np.isnan(first_values), np.isnan(values))
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
        resample_errors = np.full(draws.num_resamples, math.nan)
    else:
        resample_errors = (
            statistics.resampled(average, draws.times(dataset, len(ids))) - point
        )
        resample_errors *= scale_up(len(ids))
    return _Part(
        by_training, resample_errors, len(ids), rows_key(sorted(parts[0]), ids, average)
    )


def scale_up(num_rows: int) -> float:
    """Returns the factor that corrects the too small errors of resamples."""
    return math.sqrt(num_rows / (num_rows - 1))


def rows_key(
    tasks: Sequence[tuple[str, str]], ids: np.ndarray, table: np.ndarray
) -> int:
    """Returns a number that is equal for the same tasks, ids and missing rows."""
    is_scored = np.packbits(np.isfinite(table)).tobytes()
    return zlib.crc32(
        is_scored, zlib.crc32(ids.tobytes(), zlib.crc32(repr(tasks).encode()))
    )
