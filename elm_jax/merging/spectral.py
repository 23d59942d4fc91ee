"""Merging matrices by their singular values and vectors.

A matrix is one layer of a parameter with two axes, or the product of a LoRA in its
core; all else that experts change, such as layer norms and biases, is averaged with the
weights. "Rank" is the numerical one: singular values above 1e-7 of the greatest.
"""

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from elm_jax import fields
from elm_jax.merging import singular, stacks, views
from elm_jax.merging.deltas import DeltaMethod, Layer
from elm_jax.merging.elementwise import Ties

_MATRICES = 3  # axes of [experts, m, n]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixMethod(DeltaMethod):
    """The base and what is made of the experts' matrices, layer by layer.

    Attributes:
      weights: One per expert, a factor on what it changes; empty for 1 each.
      scale: Factor on what the merged expert changes.
    """

    def _change(self, layer: Layer) -> np.ndarray:
        if len(layer.shape) == _MATRICES:
            return self._matrix(layer)
        return layer.total / (np.abs(layer.weights).sum() or 1.0)

    def _is_sum(self, layer: Layer) -> bool:
        return len(layer.shape) == _MATRICES

    @abc.abstractmethod
    def _matrix(self, layer: Layer) -> np.ndarray:
        """Returns the merged matrix [m, n], without `scale`.

        Args:
          layer: Of which `matrices` are [experts, m, n].
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankSum(DeltaMethod):
    """The sum of what the experts change, as LoRAs of a rank of choice.

    `scale * sum w_t A_t B_t`, cut to the nearest matrix of rank `rank` in the core of
    the stacked matrices; no matrix of the size of the base's is made. Rank 0 keeps the
    sum of all ranks and so the sum itself. What is cut off is told, as a share of the
    squared norm, in the facts. All other parameters are added up as they are: of
    bottlenecks take `task_arithmetic`, whose sum is exact.

    Tools: PEFT's `cat` is rank 0, and its `svd` a lower rank, by a decomposition of the
    whole matrix; its `linear` multiplies every expert's A with every other's B. Up to
    0.18 it counted a LoRA's scale twice in `svd`.
    """

    name: ClassVar[str] = "low_rank_sum"
    reference: ClassVar[str] = (
        "Ilharco et al. 2023, arXiv:2212.04089; core: Panariello et al. 2025,"
        " arXiv:2509.17786"
    )

    def _change(self, layer: Layer) -> np.ndarray:
        return layer.total


_SPLIT = "each expert gets a share of the directions only"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TsvMerge(MatrixMethod):
    """TSV-M: the first singular directions of each expert, made orthogonal.

    Of each of T experts the first `max(1, rank // T)` singular triplets; those of all
    beside each other, U S V; then U and V replaced by the nearest matrices with
    orthonormal columns, U' and V': `scale * U' S V'`, with a scale of 1 in the paper.

    Tools: FusionBench takes `int(min(m, n) / T)` triplets, which is none for more
    experts than that, so that 65 experts on an adapter 64 wide merge to nothing.
    """

    name: ClassVar[str] = "tsv_merge"
    num_copies: ClassVar[int] = 3
    reference: ClassVar[str] = "Gargiulo et al. 2025, arXiv:2412.00081"
    breaks: ClassVar[Mapping[str, str]] = MappingProxyType({"equal_experts": _SPLIT})

    def _matrix(self, layer: Layer) -> np.ndarray:
        count, rows, columns = layer.shape
        most = max(1, min(rows, columns) // count)
        left, sizes, right = layer.matrices.scaled(layer.weights).svd(most)
        ranks = [singular.rank(expert_sizes) for expert_sizes in sizes]
        # None of an expert that changes nothing: its directions would be arbitrary.
        nums_kept = [min(rank, max(1, rank // count)) for rank in ranks]
        parts = zip(left, sizes, right, nums_kept, strict=True)
        cut = [(u[:, :k], s[:k], v[:k]) for u, s, v, k in parts]
        lefts = np.concatenate([u for u, _, _ in cut], axis=1)
        middle = np.concatenate([s for _, s, _ in cut])
        rights = np.concatenate([v for _, _, v in cut])
        lefts = singular.nearest_orthonormal(lefts)
        return (lefts * middle) @ singular.nearest_orthonormal(rights)


_FLAT = "it makes all singular values equal, a single expert's, too"
_FLATTENED: Mapping[str, str] = MappingProxyType(
    {"one_expert": _FLAT, "one_hot": _FLAT, "equal_experts": _FLAT}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsoC(MatrixMethod):
    """Iso-C: the sum of the experts' matrices with all singular values made equal.

    `scale * mean(S) U V` of the singular value decomposition U S V of `sum w_t D_t`.
    Only as many directions as the sum's rank: further ones are arbitrary.

    Tools: with LoRAs the mean of few great and many vanishing values in arbitrary
    directions is most of their result (81 % of the energy for three of rank 16 in 256).
    The scale is 1 there and here.
    """

    name: ClassVar[str] = "iso_c"
    reference: ClassVar[str] = "Marczak et al. 2025, arXiv:2502.04959"
    breaks: ClassVar[Mapping[str, str]] = _FLATTENED

    def _matrix(self, layer: Layer) -> np.ndarray:
        left, sizes, right = singular.svd(layer.total)
        num_kept = singular.rank(sizes)
        if not num_kept:
            return np.zeros(layer.shape[1:])
        return float(sizes[:num_kept].mean()) * left[:, :num_kept] @ right[:num_kept]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsoCts(MatrixMethod):
    """Iso-CTS: Iso-C with directions of single experts in place of the last ones.

    Of R directions, the rank of all that the experts change, the first `common_share`
    are those of the sum. The others are filled with the first directions of each expert
    in what is left of it outside of these, as many of each, or all that it has left.
    All are made orthonormal, U' and V', with the mean of their singular values as the
    size of each: `scale * mean(S) U' V'`.

    Tools: FusionBench takes `min(m, n)` for R, so that most directions of low-rank
    experts are arbitrary; its share is 0.8, as here.

    Attributes:
      common_share: Of the directions that the sum's are.
    """

    name: ClassVar[str] = "iso_cts"
    num_copies: ClassVar[int] = 3
    reference: ClassVar[str] = "Marczak et al. 2025, arXiv:2502.04959"
    breaks: ClassVar[Mapping[str, str]] = _FLATTENED
    common_share: fields.Share = 0.8

    def _matrix(self, layer: Layer) -> np.ndarray:
        count, rows, columns = layer.shape
        matrices = layer.matrices.scaled(layer.weights)
        whole = _rank_of_all(matrices)
        if not whole:
            return np.zeros((rows, columns))
        rank_each = round((whole - int(whole * self.common_share)) / count)
        rank_each = min(rank_each, whole // count)  # rounded up, it may be too many
        common = whole - rank_each * count
        left, sizes, right = singular.svd(layer.total)
        common = min(common, singular.rank(sizes))
        left, sizes, right = left[:, :common], sizes[:common], right[:common]
        lefts, middle, rights = [left], [sizes], [right]
        if rank_each:
            norms = np.sqrt(np.maximum(matrices.squares(), 0.0))
            parts = zip(*matrices.without(left).svd(rank_each), norms, strict=True)
            for u, s, v, norm in parts:
                # Fewer where less is left: further directions would be arbitrary.
                rank = min(rank_each, singular.rank(s, norm))
                lefts.insert(-1, u[:, :rank])
                middle.insert(-1, s[:rank])
                rights.insert(-1, v[:rank])
        size = float(np.concatenate(middle).mean())
        u = singular.nearest_orthonormal(np.concatenate(lefts, axis=1))
        return size * u @ singular.nearest_orthonormal(np.concatenate(rights))


def _rank_of_all(matrices: stacks.Matrices) -> int:
    """Returns the rank of what all matrices [experts, m, n] span, on either side."""
    count, rows, columns = matrices.shape
    beside, below = matrices.sides()
    first, second = (beside, below) if rows <= columns else (below, beside)
    least = singular.rank_of(first)
    # The other side's is at least that of a single one, and costs more to count.
    if matrices.most_rank >= least:
        ends = (matrices.change_of(place) for place in (0, count - 1))
        if max(map(singular.rank_of, ends)) >= least:
            return least
    return min(least, singular.rank_of(second))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knots(Ties):
    """KnOTS: number-wise merging in singular vectors that the experts share.

    The experts' matrices below each other are `V S U`; the parts of V are merged number
    by number, as the other options say, by default as TIES, and multiplied by S U:
    `scale * ties(V_1 ... V_T) S U`.

    Tools: KnOTS drops singular values below 1e-4; here, below 1e-4 of the greatest.
    """

    name: ClassVar[str] = "knots"
    num_copies: ClassVar[int] = 2
    reference: ClassVar[str] = "Stoica et al. 2024, arXiv:2410.19735"
    space: views.Space = "knots"
