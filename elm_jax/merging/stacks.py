"""What several experts change in one layer, and what methods make of all of it."""

import abc
import dataclasses
import types
from collections.abc import Iterator, Sequence

import numpy as np

from elm_jax.merging import singular, threads

Rows = slice | types.EllipsisType
"""Some rows of an array, or `...` for all."""

_AT_ONCE = 1 << 21  # numbers, of experts whose matrices are put beside each other


class Stack(abc.ABC):
    """What each of T experts changes in one layer: float64 [T, ...]."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of all changes: [T, ...]."""

    @property
    def num_held(self) -> int:
        """Numbers of changes that are in memory."""
        return 0

    @abc.abstractmethod
    def parts(self) -> Iterator[Rows]:
        """Yields the rows that are in memory at once; `...` if all are."""

    @abc.abstractmethod
    def some(self, rows: Rows) -> np.ndarray:
        """Returns some rows of all experts; whoever asks may write into them.

        Raises:
          ConfigError: All are wanted of products that take more memory than there may
            be.
        """

    @abc.abstractmethod
    def change_of(self, place: int) -> np.ndarray:
        """Returns what one expert changes, [...], which is read only."""

    @abc.abstractmethod
    def total(self, weights: np.ndarray) -> np.ndarray:
        """Returns the sum of changes times weights [T]: [...]."""


class Matrices(Stack):
    """Matrices D_t [p, q] of T experts."""

    @property
    @abc.abstractmethod
    def most_rank(self) -> int:
        """No matrix has more."""

    @abc.abstractmethod
    def scaled(self, weights: np.ndarray) -> "Matrices":
        """Returns each matrix times its weight."""

    @abc.abstractmethod
    def without(self, columns: np.ndarray) -> "Matrices":
        """Returns what is left of them outside of orthonormal columns [p, k]."""

    @abc.abstractmethod
    def svd(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what `singular.svd` does of each, for at most `most` vectors."""

    @abc.abstractmethod
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns matrices [p, any] and [any, q] of what they span on either side.

        They have the singular values of all matrices beside, and below, each other.
        """

    @abc.abstractmethod
    def squares(self) -> np.ndarray:
        """Returns the sum of squares of each matrix, [T]."""

    @abc.abstractmethod
    def times(self, vector: np.ndarray) -> np.ndarray:
        """Returns each `D_t v` for v [q]: [T, p]."""

    @abc.abstractmethod
    def times_rows(self, vectors: np.ndarray) -> np.ndarray:
        """Returns each `v_t' D_t` for v [T, p]: [T, q]."""

    @abc.abstractmethod
    def equations(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `sum f_t D_t D_t'` and `sum f_t D_t D_t' D_t`.

        The sums over experts are those inside of products of matrices beside each
        other, so that what is summed is never in memory.
        """


@dataclasses.dataclass(frozen=True)
class Arrays(Matrices):
    """Changes that are in memory; what is of matrices, only of matrices.

    Attributes:
      changes: [T, ...].
    """

    changes: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all changes: [T, ...]."""
        return self.changes.shape

    @property
    def num_held(self) -> int:
        """Numbers of changes that are in memory: all."""
        return self.changes.size

    @property
    def most_rank(self) -> int:
        """No matrix has more."""
        return min(self.shape[1:])

    def parts(self) -> Iterator[Rows]:
        """Yields all rows at once."""
        yield ...

    def some(self, rows: Rows) -> np.ndarray:
        """Returns the changes, not a copy."""
        return self.changes if rows is ... else self.changes[:, rows]

    def change_of(self, place: int) -> np.ndarray:
        """Returns what one expert changes, not a copy."""
        return self.changes[place]

    def total(self, weights: np.ndarray) -> np.ndarray:
        """Returns the sum of changes times weights [T]: [...].

        One after another, so that what is between stays in the cache.
        """
        total = self.changes[0] * weights[0]
        for change, weight in zip(self.changes[1:], weights[1:], strict=True):
            total += change * weight
        return total

    def scaled(self, weights: np.ndarray) -> "Arrays":
        """Returns each change times its weight; themselves, if all weights are 1."""
        if (weights == 1.0).all():
            return self
        along = weights.reshape(-1, *[1] * (self.changes.ndim - 1))
        return Arrays(self.changes * along)

    def without(self, columns: np.ndarray) -> "Arrays":
        """Returns what is left of them outside of orthonormal columns."""
        return Arrays(self.changes - columns @ (columns.T @ self.changes))

    def svd(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what `singular.svd` does."""
        return singular.svd(self.changes, most)

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all matrices beside each other, and below each other."""
        _, rows, columns = self.changes.shape
        beside = self.changes.transpose(1, 0, 2).reshape(rows, -1)
        return beside, self.changes.reshape(-1, columns)

    def squares(self) -> np.ndarray:
        """Returns the sum of squares of each matrix.

        One after another, which takes the memory of one. BLAS would add up otherwise on
        another number of threads, and a merge would not be the same to the bit.
        """

        def square(place: int) -> float:
            return float(np.square(self.changes[place]).sum())

        places = range(len(self.changes))
        return np.array(threads.each(square, places, numbers=self.changes.size))

    def times(self, vector: np.ndarray) -> np.ndarray:
        """Returns each `D_t v`."""
        return self.changes @ vector

    def times_rows(self, vectors: np.ndarray) -> np.ndarray:
        """Returns each `v_t' D_t`."""
        return (vectors[:, None] @ self.changes)[:, 0]

    def equations(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns both sums; of long matrices a few are put beside each other at once.

        Two parts are in memory at once, each with three copies; of matrices of more
        than `_AT_ONCE` numbers, one.
        """
        matrices = self.changes
        count, rows, columns = matrices.shape
        if rows <= columns:  # so that what is between is small
            grams = (matrices @ matrices.transpose(0, 2, 1)) * factors[:, None, None]
            beside = grams.transpose(1, 0, 2).reshape(rows, -1)
            return grams.sum(axis=0), beside @ matrices.reshape(count * rows, columns)
        at_once = max(1, _AT_ONCE // (rows * columns))
        starts = range(0, count, at_once)
        parts = [slice(start, start + at_once) for start in starts]
        half = len(parts) // 2
        (gram, cubes), second = threads.each(
            lambda some: _added_up(matrices, factors, some),
            (parts[:half], parts[half:]),
            numbers=matrices.size,
            few=2 if rows * columns <= _AT_ONCE else 3,
        )
        return gram + second[0], cubes + second[1]


def _added_up(
    matrices: np.ndarray, factors: np.ndarray, parts: Sequence[slice]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of `equations` over some experts.

    NumPy multiplies a matrix with itself in half the time, as SciPy's `syrk` does, but
    lets other threads compute.

    Args:
      matrices: The matrices of all experts.
      factors: The factor of each expert.
      parts: Experts whose matrices are put beside each other.
    """
    _, rows, columns = matrices.shape
    roots = np.sqrt(factors)[:, None]
    gram, cubes = np.zeros((rows, rows)), np.zeros((rows, columns))
    for part in parts:
        some = matrices[part]
        inner = (some.transpose(0, 2, 1) @ some) * roots[part, :, None]
        moved = np.multiply(some.transpose(1, 0, 2), roots[part], order="C")
        beside = moved.reshape(rows, -1)
        cubes += beside @ inner.reshape(-1, columns)
        gram += beside @ beside.T
    return gram, cubes
