"""Singular values of many small and of long matrices, fast on CPUs."""

from concurrent import futures

import numpy as np

from elm_jax.merging import threads

# From here on the Gram matrix of a long matrix is decomposed instead, which is several
# times as fast. Singular values below 1e-8 of the greatest are then lost in rounding,
# less than what float32 parameters tell.
LONG = 3
_LEAST = 1e-7


def svd(
    matrices: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `u * s @ v` of matrices [..., m, n], as numpy's thin SVD does.

    Of matrices three times as long as wide, vectors of singular values below 1e-7 of
    the greatest are zeros, and so are these.

    Args:
      matrices: One or more.
      most: How many vectors of each are wanted, the first ones; None for all.

    Returns:
      u [..., m, k], s [..., k] descending, v [..., k, n], with k = min(m, n).
    """
    rows, columns = matrices.shape[-2:]
    if rows >= LONG * columns:
        return _long_svd(matrices, most)
    if columns >= LONG * rows:
        right, sizes, left = _long_svd(np.swapaxes(matrices, -1, -2), most)
        return np.swapaxes(left, -1, -2), sizes, np.swapaxes(right, -1, -2)
    left, sizes, right = np.linalg.svd(matrices, full_matrices=False)
    return left[..., :most], sizes, right[..., :most, :]


def rank(sizes: np.ndarray, size: float | None = None) -> int:
    """Returns how many singular values [k] are more than rounding, at least 0.

    Args:
      sizes: Singular values, descending.
      size: Of what they were computed from; None for the first one.
    """
    return int((sizes > _LEAST * (sizes[:1] if size is None else size)).sum())


def rank_of(matrix: np.ndarray) -> int:
    """Returns the rank of a matrix [m, n], as `rank` counts it."""
    rows = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares = np.linalg.eigvalsh(rows @ rows.T)[::-1]
    return rank(np.sqrt(np.maximum(squares, 0.0)))


def nearest_orthonormal(matrix: np.ndarray) -> np.ndarray:
    """Returns the matrix with all its singular values, but for zeros, made 1."""
    left, sizes, right = svd(matrix)
    num_kept = rank(sizes)
    return left[:, :num_kept] @ right[:num_kept]


def right_svd(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns s and v of `svd` of long matrices [..., m, n], without u."""
    return _right_svd_by(_gram(matrices))


def right_svd_begun(
    matrix: np.ndarray,
) -> futures.Future[tuple[np.ndarray, np.ndarray]]:
    """Begins `right_svd` of one matrix, of which only the Gram matrix is then held."""
    return threads.begun(_right_svd_by, _gram(matrix))


def _right_svd_by(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squares, vectors = np.linalg.eigh(gram)
    sizes = np.sqrt(np.maximum(squares, 0.0))[..., ::-1]
    sizes = np.where(sizes > _LEAST * sizes[..., :1], sizes, 0.0)
    right = np.swapaxes(vectors[..., ::-1], -1, -2)
    return sizes, np.where(sizes[..., None] > 0, right, 0.0)


def _gram(matrices: np.ndarray) -> np.ndarray:
    """Returns `D' D` of each; of a single one that of two halves, added up."""
    if matrices.ndim > 2:  # noqa: PLR2004
        return np.swapaxes(matrices, -1, -2) @ matrices
    halves = np.array_split(matrices, 2)
    first, second = threads.each(_gram_of, halves, numbers=matrices.size, few=2)
    return first + second


def _gram_of(matrix: np.ndarray) -> np.ndarray:
    return matrix.T @ matrix


def _long_svd(
    matrices: np.ndarray, most: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes, right = right_svd(matrices)
    right, first = right[..., :most, :], sizes[..., :most, None]
    scaled = right / np.where(first > 0, first, np.inf)
    return matrices @ np.swapaxes(scaled, -1, -2), sizes, right
