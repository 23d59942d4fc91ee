"""What LoRAs change: products of narrow matrices, made when somebody asks for them.

Products [m, n] of rank r have m n numbers, and their matrices (m + n) r: a hundredth.
So what is made of all experts is made of the narrow matrices, put beside or below each
other, or of some rows of the products at a time. Rows, single products and all of them
differ by rounding.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from elm_jax.merging import combining, stacks

_ITEM_BYTES = 8  # of float64
_MOST_BYTES = 8 << 30  # of products at once; more would not fit beside the experts
_PART_BYTES = 1 << 25  # of some rows of products
_ANOTHER_WAY = (
    'Merge in another space than "knots", or by low_rank_sum, ties or most other'
    " methods: they hold a few rows at a time; or merge fewer, or first cut each to a"
    " lower rank"
)
_NARROW = 3  # copies of narrow matrices: in two bases, scaled, beside each other
_SQUARES = 8  # matrices as large as one product: sums, vectors, and what finds these
_PARTS = 4  # of some rows of products: they, what is kept, weighted, and counted


@dataclasses.dataclass(frozen=True)
class Products(stacks.Matrices):
    """Matrices `D_t = A_t B_t`, of which none is made that is not asked for.

    Attributes:
      firsts: A, float64 [T, p, rank].
      seconds: B, float64 [T, rank, q].
    """

    firsts: np.ndarray
    seconds: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all products: [T, p, q]."""
        return len(self.firsts), self.firsts.shape[1], self.seconds.shape[2]

    @property
    def most_rank(self) -> int:
        """No product has more."""
        return min(*self.shape[1:], self.firsts.shape[2])

    def parts(self) -> Iterator[stacks.Rows]:
        """Yields as many rows as `rows_at_once` says."""
        rows, at_once = self.shape[1], rows_at_once(self.shape)
        if at_once >= rows:
            yield ...
            return
        for start in range(0, rows, at_once):
            yield slice(start, start + at_once)

    def some(self, rows: stacks.Rows) -> np.ndarray:
        """Returns some rows of all products."""
        if rows is not ...:
            return self.firsts[:, rows] @ self.seconds
        check_all_fit(self.shape, self.firsts.shape[2])
        return self.firsts @ self.seconds

    def change_of(self, place: int) -> np.ndarray:
        """Returns the product of one expert."""
        return self.firsts[place] @ self.seconds[place]

    def total(self, weights: np.ndarray) -> np.ndarray:
        """Returns the sum, of all A beside, times all B below each other."""
        return _beside(self.scaled(weights).firsts) @ _below(self.seconds)

    def scaled(self, weights: np.ndarray) -> "Products":
        """Returns each product times its weight."""
        return Products(self.firsts * weights[:, None, None], self.seconds)

    def without(self, columns: np.ndarray) -> "Products":
        """Returns the products less their projections on orthonormal columns."""
        rest = self.firsts - columns @ (columns.T @ self.firsts)
        return Products(rest, self.seconds)

    def svd(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns as many vectors as the rank, by an SVD of cores between two bases."""
        outer, first = np.linalg.qr(self.firsts)
        inner, second = np.linalg.qr(self.seconds.swapaxes(1, 2))
        left, sizes, right = np.linalg.svd(
            first @ second.swapaxes(1, 2), full_matrices=False
        )
        rights = right[:, :most] @ inner.swapaxes(1, 2)
        return outer @ left[..., :most], sizes, rights

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns singular vectors times values, of which D D' is a product, too."""
        left, sizes, right = self.svd(self.most_rank)
        return _beside(left * sizes[:, None]), _below(sizes[..., None] * right)

    def squares(self) -> np.ndarray:
        """Returns the sum of squares of each, `trace(A' A B B')`."""
        pairs = zip(*self._grams(), strict=True)
        return np.array([(first * second).sum() for first, second in pairs])

    def times(self, vector: np.ndarray) -> np.ndarray:
        """Returns each `D_t v`."""
        return (self.firsts @ (self.seconds @ vector)[..., None])[..., 0]

    def times_rows(self, vectors: np.ndarray) -> np.ndarray:
        """Returns each `v_t' D_t`."""
        return (vectors[:, None] @ self.firsts @ self.seconds)[:, 0]

    def equations(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns both sums: `D D' = A (B B') A'` and `D D' D = A (B B' A' A) B`."""
        firsts, seconds = self._grams()
        inner = seconds * factors[:, None, None]
        beside = _beside(self.firsts)
        gram = _beside(self.firsts @ inner) @ beside.T
        cubes = _beside(self.firsts @ (inner @ firsts)) @ _below(self.seconds)
        return (gram + gram.T) / 2, cubes

    def _grams(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each `A' A` and each `B B'`."""
        firsts, seconds = self.firsts, self.seconds
        return firsts.swapaxes(1, 2) @ firsts, seconds @ seconds.swapaxes(1, 2)


def rows_at_once(shape: tuple[int, int, int]) -> int:
    """Returns how many rows of products of a shape [T, p, q] are made at once."""
    count, rows, columns = shape
    row_bytes = count * columns * _ITEM_BYTES
    return min(rows, max(1, _PART_BYTES // max(1, row_bytes)))


def check_all_fit(
    shape: tuple[int, int, int], rank: int, *, do: str = _ANOTHER_WAY
) -> None:
    """Raises ConfigError if all products take more memory than they may at once.

    Args:
      shape: Of the products, [T, p, q].
      rank: Of their narrow matrices.
      do: What to do about it.
    """
    num_bytes = math.prod(shape) * _ITEM_BYTES
    if num_bytes > _MOST_BYTES:
        combining.refuse(
            found=f"{shape[0]} LoRAs of rank {rank}, whose products take"
            f" {num_bytes:,} bytes in one layer",
            expected=f"at most {_MOST_BYTES:,} for what needs all of them at once",
            do=do,
        )


def held_bytes(shape: tuple[int, int, int], rank: int, *, has_all: bool) -> int:
    """Returns the bytes that merging products takes at most: a bound, not measured.

    Args:
      shape: Of the products, [T, p, q].
      rank: Of their narrow matrices.
      has_all: Whether all products are there at once.
    """
    count, rows, columns = shape
    narrow = count * rank * (rows + columns)
    part = count * columns * (rows if has_all else rows_at_once(shape))
    numbers = _NARROW * narrow + _SQUARES * rows * columns + _PARTS * part
    return numbers * _ITEM_BYTES + math.prod(shape) // 8


def _beside(matrices: np.ndarray) -> np.ndarray:
    return matrices.transpose(1, 0, 2).reshape(matrices.shape[1], -1)


def _below(matrices: np.ndarray) -> np.ndarray:
    return matrices.reshape(-1, matrices.shape[2])
