"""Matrices that interfere least with what each expert reads, without any data.

What an expert changes in a matrix, `D_t` [inputs, outputs], is made of the inputs that
it was trained on: `G_t = D_t D_t'` stands for their covariance. The methods find the
matrix M that differs least from each D_t on such inputs,

    minimise sum_t trace((M - D_t)' G_t (M - D_t)),  so  (sum_t G_t) M = sum_t G_t D_t,

and differ in how G_t is scaled and how the solution is kept from following noise. They
are exact in a core: M lies in what the D_t span.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg

from elm_jax import fields
from elm_jax.merging import averages, core, singular, stacks
from elm_jax.merging.deltas import Layer
from elm_jax.merging.spectral import MatrixMethod

# Eigenvalues of sums of squares, relative to the greatest: rounding below.
_LEAST = 1e-13
_INVERTIBLE = 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterferenceMethod(MatrixMethod):
    """The base and matrices that interfere least with the experts' own.

    Attributes:
      weights: One per expert, at least 0 and not all 0: how much it counts. Only their
        ratios matter.
    """

    num_copies: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that do not weigh."""
        super().__post_init__()
        averages.Weighted(weights=self.weights)

    @property
    def only_ratios(self) -> bool:
        """True: weights tell how much experts count."""
        return True

    def _is_sum(self, layer: Layer) -> bool:
        del layer
        return False

    def _keeps_one(self) -> bool:
        plain = dataclasses.replace(self, weights=())
        return super(InterferenceMethod, plain)._keeps_one()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Covariance(InterferenceMethod):
    """The least squares solution with `G_t = D_t D_t'`.

    `M = (sum w_t G_t)^+ sum w_t G_t D_t`, with `+` the pseudo-inverse. Experts that
    change more weigh more. `scale` is 1.

    Tools: the authors' code does the same to all of W, base included, in one variant.
    """

    name: ClassVar[str] = "covariance"
    reference: ClassVar[str] = "Hameed et al. 2026, arXiv:2604.01329"

    def _matrix(self, layer: Layer) -> np.ndarray:
        frame, matrices = _in_span(layer.matrices)
        return _on_frame(frame, _least_squares(*matrices.equations(layer.weights)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wudi(InterferenceMethod):
    """WUDI in closed form, filtered: the equations with `G_t = D_t D_t' / |D_t|^2`.

    From the start S the solution is approached in directions v_k of great eigenvalues
    l_k of `C = sum G_t` only: `M = S + sum_k h_k / l_k v_k v_k' (sum G_t D_t - C S)`.
    With all `h_k` 1 it is the exact solution, which follows noise and is worse than
    WUDI's few steps of Adam; `h_k = 1 - exp(-time l_k)` is gradient descent that stops
    early; and `h_k = 0` beyond the first K cuts the rest off. K is the participation
    ratio `(sum s)^2 / sum s^2` of the singular values `s_k = sqrt(l_k)`.

    Tools: FusionBench starts from the sum, as here by default, and takes 300 steps of
    Adam; another code divides what it finds by T, and a third minimises another
    function, a scalar product. SWUDI's paper has the filters.

    Attributes:
      start: From where: the "sum" of the D_t, each times its weight over their mean, or
        "zero", which makes it a pure filter.
      cut: Whether directions beyond the participation ratio are left at the start.
      time: Of the descent, in units of 1 / the greatest eigenvalue; 0 for no end.
    """

    name: ClassVar[str] = "wudi"
    reference: ClassVar[str] = (
        "Cheng et al. 2025, arXiv:2503.08099 (WUDI); Wei et al. 2026, arXiv:2606.07289"
        " (filters)"
    )
    breaks: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"equal_experts": "directions that are cut off stay at the start, the sum"}
    )
    start: Literal["sum", "zero"] = "sum"
    cut: bool = True
    time: fields.NotNegative = 0.0

    def _keeps_one(self) -> bool:
        is_exact = not self.cut and not self.time
        return (self.start == "sum" or is_exact) and super()._keeps_one()

    def _matrix(self, layer: Layer) -> np.ndarray:
        frame, matrices = _in_span(layer.matrices)
        squares = matrices.squares()
        factors = layer.weights / np.where(squares > 0, squares, 1.0)
        gram, target = matrices.equations(factors)
        values, vectors = _eigen(gram)
        if not values[0]:
            return np.zeros(layer.shape[1:])
        start = np.zeros(matrices.shape[1:])
        if self.start == "sum":
            shares = layer.weights / layer.weights.mean()
            start = matrices.total(shares)
        filters = np.where(values > 0, 1.0, 0.0)
        if self.time:
            filters = -np.expm1(-self.time * values / values[0])
        if self.cut:
            sizes = np.sqrt(values)
            filters[round(float(sizes.sum() ** 2 / values.sum())) :] = 0.0
        steps = filters / np.where(values > 0, values, 1.0)
        gap = vectors.T @ (target - gram @ start)
        return _on_frame(frame, start + vectors @ (steps[:, None] * gap))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ace(InterferenceMethod):
    """ACE: the equations with centred covariances, a prior and a spectral correction.

    `S_t` is D_t D_t' of D_t without the mean of its columns. If the traces of the
    `D_t D_t'` differ much (the variance of their logarithms is more than 0.3 of the
    square of the mean), S_t is divided by its trace. With `e_t = epsilon`, likewise
    divided, and C the mean of the rows of `sum S_t` in every row,
    `M = (sum S_t + e_t + C')^-1 sum (S_t + e_t) D_t`; and if the traces differ much, a
    flat spectrum is added: the first 30 % of the singular directions of M and the
    residual `sum (S_t - mean S) D_t`, all with the mean of their singular values.

    `epsilon` is a number, not a share, so that the result depends on the size of what
    experts change; of a LoRA that is A B, without alpha / rank.

    Tools: the authors' code leaves the mean of the columns out of D_t, too, and counts
    30 % of min(m, n) directions, arbitrary ones beyond the rank; here, of the rank.

    Attributes:
      epsilon: Added to the covariances' diagonals.
      flat_share: Of the directions that the flat spectrum has.
    """

    name: ClassVar[str] = "ace"
    reference: ClassVar[str] = "Xu et al. 2026, arXiv:2603.02945"
    breaks: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(
            ("one_expert", "one_hot", "equal_experts"),
            "its prior pulls every solution towards nothing, a single expert's too",
        )
    )
    epsilon: fields.Positive = 0.01
    flat_share: fields.Share = 0.3

    def _matrix(self, layer: Layer) -> np.ndarray:
        matrices, weights = layer.matrices, layer.weights
        _, rows, columns = matrices.shape
        left, right = layer.frames
        row_ones = np.ones(rows) if left is None else left.T @ np.ones(len(left))
        across = np.ones(columns) if right is None else right @ np.ones(right.shape[1])
        width = columns if right is None else right.shape[1]
        height = rows if left is None else len(left)
        # With unit vectors u of the mean, D D' - (D u)(D u)' is the centred D's. Of
        # these matrices [rows, rows] only sums are made, never one for each expert.
        means = matrices.times(across) / np.sqrt(width)
        squares = matrices.squares()
        is_uneven = _is_uneven(squares)
        # Equal columns have a trace of 0, which rounding may make negative.
        traces = np.maximum(squares - np.square(means).sum(axis=1), 0.0) + 1e-12
        factors = weights / traces if is_uneven else weights
        ridges = self.epsilon * factors
        gram, cubes = matrices.equations(factors)
        scaled = means * np.sqrt(factors)[:, None]
        total, ridge = gram - scaled.T @ scaled, ridges.sum()
        products = cubes - scaled.T @ matrices.times_rows(scaled)
        prior = np.outer(total @ row_ones / height, row_ones)
        if is_uneven:
            prior = prior / (squares.mean() + 1e-12)
        target = products + matrices.total(ridges)
        solution = np.linalg.solve(total + ridge * np.eye(rows) + prior, target)
        if not is_uneven:
            return solution
        mean = (total + ridge * np.eye(rows)) / weights.sum()
        residual = products - mean @ matrices.total(weights)
        return solution + self._flat(solution + residual)

    def _flat(self, matrix: np.ndarray) -> np.ndarray:
        u, sizes, v = singular.svd(matrix)
        num_kept = max(1, int(singular.rank(sizes) * self.flat_share))
        return float(sizes[:num_kept].mean()) * u[:, :num_kept] @ v[:num_kept]


def _is_uneven(traces: np.ndarray) -> bool:
    logs = np.log(traces + 1e-12)
    return len(logs) > 1 and bool(logs.var(ddof=1) / (logs.mean() ** 2 + 1e-12) > 0.3)  # noqa: PLR2004


def _least_squares(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns `gram^+ target`, with `+` the pseudo-inverse.

    If all eigenvalues are much more than rounding it is the inverse, which a Cholesky
    decomposition gives in a tenth of the time of eigenvectors.
    """
    factor, estimate, solve = linalg.get_lapack_funcs(("potrf", "pocon", "potrs"))
    lower, problem = factor(gram, lower=1)
    if not problem:
        reciprocal, _ = estimate(lower, np.linalg.norm(gram, 1), uplo="L")
        # A bound from below for the ratio of the least eigenvalue to the greatest.
        if reciprocal > _INVERTIBLE:
            return solve(lower, target, lower=1)[0]
    values, vectors = _eigen(gram)
    inverse = np.where(values > 0, 1.0 / np.where(values > 0, values, 1.0), 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ target))


def _on_frame(frame: np.ndarray | None, matrix: np.ndarray) -> np.ndarray:
    return matrix if frame is None else frame @ matrix


def _in_span(
    matrices: stacks.Matrices,
) -> tuple[np.ndarray | None, stacks.Matrices]:
    """Returns orthonormal columns that all matrices span, and these written in them.

    The columns are None where matrices are left as they are.
    """
    count, rows, columns = matrices.shape
    if count * columns >= rows or not isinstance(matrices, stacks.Arrays):
        return None, matrices
    beside, _ = matrices.sides()
    frame = core.span(beside)
    return frame, stacks.Arrays(frame.T @ matrices.changes)


def _eigen(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns eigenvalues, descending, zeros for rounding, and vectors in columns."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    return np.where(values > _LEAST * values[0], values, 0.0), vectors
