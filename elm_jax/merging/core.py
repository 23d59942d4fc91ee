"""Products of narrow matrices in the coordinates that they span: their core.

The products `A_t B_t` [m, n] of T experts lie between the columns that all `A_t` span
and the rows that all `B_t` span. In orthonormal bases P and Q of these,
`A_t B_t = P C_t Q` with small cores `C_t`: lossless up to rounding, and whatever is
done to matrices without regard to the axes they are written in can be done to cores. No
matrix of size m x n is made.

Reference:
  Panariello et al. 2025, arXiv:2509.17786 (Core Space).
"""

import dataclasses

import numpy as np

from elm_jax.merging import products


@dataclasses.dataclass(frozen=True)
class Core:
    """Products of several experts in common bases, float64.

    Attributes:
      left: Orthonormal columns [m, p].
      right: Orthonormal rows [q, n].
      matrices: The cores [experts, p, q].
    """

    left: np.ndarray
    right: np.ndarray
    matrices: products.Products


def of(lefts: np.ndarray, rights: np.ndarray) -> Core:
    """Returns the core of products `lefts[t] @ rights[t]`.

    Args:
      lefts: [experts, m, rank].
      rights: [experts, rank, n].
    """
    left = span(np.concatenate(list(lefts), axis=1))
    right = span(np.concatenate(list(rights), axis=0).T).T
    return Core(left, right, products.Products(left.T @ lefts, rights @ right.T))


def span(columns: np.ndarray) -> np.ndarray:
    """Returns an orthonormal basis [m, p] of what columns [m, k] span, p at least 1.

    Of columns that span nearly all of the space, it is the space's own.
    """
    rows, count = columns.shape
    if count >= rows:
        return np.eye(rows)
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    limit = sizes[0] * max(columns.shape) * np.finfo(np.float64).eps
    return vectors[:, : max(1, int((sizes > limit).sum()))]


def cut(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns factors [m, rank] and [rank, n] of the nearest matrix of a rank.

    Singular values are divided evenly between the two.

    Returns:
      The factors, and the share of the squared norm that they leave out, in [0, 1].
    """
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    num_kept = min(rank, len(sizes))
    roots = np.sqrt(sizes[:num_kept])
    a, b = np.zeros((len(matrix), rank)), np.zeros((rank, matrix.shape[1]))
    a[:, :num_kept] = left[:, :num_kept] * roots
    b[:num_kept] = roots[:, None] * right[:num_kept]
    total = np.square(sizes).sum()
    discarded = np.square(sizes[num_kept:]).sum() / total if total else 0.0
    return a, b, float(discarded)
