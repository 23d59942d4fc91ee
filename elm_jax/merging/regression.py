"""Averages that weigh each parameter by what was measured with each expert."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from elm_jax import fields
from elm_jax.merging import aligning, combining, core, layers
from elm_jax.merging.measured import Leaves, StatisticsMethod, weighed
from elm_jax.merging.method import Beside, Layout, Measure

_MATRIX = 2  # axes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fisher(StatisticsMethod):
    """Fisher merging: each number weighed by how much outputs depend on it.

    `sum w_t F_t x_t / sum w_t F_t`, F_t the diagonal of the Fisher information: the
    mean over rows of the squared gradient of one row's log-likelihood, in expectation
    over the model's own answers (for ranking, over the answer choices). At least
    `least`, so that what no expert uses is their mean.

    Statistics: arrays as the experts' parameters, at least 0. Those that are missing
    count 1.

    Tools: a reference that others copy squares the gradient of a sum over the rows of a
    batch, which is no Fisher information. FusionBench divides each expert's F by its
    norm; here the weights do what is wanted.

    Attributes:
      least: What F_t is at least, 1e-6 in FusionBench, too.
    """

    name: ClassVar[str] = "fisher"
    reference: ClassVar[str] = "Matena and Raffel 2022, arXiv:2111.09832"
    needs_statistics: ClassVar[str] = "Fisher information of each parameter"
    measures: ClassVar[Measure] = "fisher"
    least: fields.Positive = 1e-6

    def _mean(
        self,
        experts: Sequence[Leaves],
        measured: Sequence[Leaves],
        weights: np.ndarray,
        beside: Beside,
        orders: aligning.Orders,
    ) -> tuple[Leaves, int]:
        merged: Leaves = {}
        for name, like in experts[0].items():
            counts = [statistic[name] for statistic in measured if name in statistic]
            for count in counts:
                _check_shape(name, count, like.shape)
            merged[name] = np.empty_like(like)
            for number, (_, index) in enumerate(layers.units(name, like)):
                parts: Sequence[np.ndarray] = [
                    expert[name][index] for expert in experts
                ]
                layer_counts: Sequence[np.ndarray] = [count[index] for count in counts]
                if name in orders:
                    order, axis = orders[name][number], beside[name].axis
                    parts = aligning.Reordered(parts, order, axis)
                    layer_counts = layer_counts and aligning.Reordered(
                        layer_counts, order, axis
                    )
                merged[name][index] = weighed(
                    parts, weights, layer_counts, least=self.least
                )
        return merged, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegMean(StatisticsMethod):
    """RegMean: matrices whose outputs are nearest to those of each expert's.

    `W = (sum w_t G_t)^-1 sum w_t G_t W_t` for matrices [inputs, outputs], G_t the mean
    of x x' over the inputs x that W_t had on rows of expert t, its off-diagonal numbers
    times `shrink`. To each G_t `ridge` times the mean of the diagonals of all is added,
    so that directions in which there are no inputs get the experts' mean. LoRAs: the
    same of the products A_t B_t, exactly, of rank `sum r_t` unless `rank` is given. A
    parameter without statistics is averaged; a vector is weighed number by number, such
    as (IA)3's by the mean squares of what it multiplies.

    Statistics: Gram matrices [inputs, inputs] by the name of the matrix; for a LoRA by
    that of its first matrix, A; for a vector, numbers as many as it has.

    Tools: a shrink of 0.95 for CLIP, 0.6 for GPT-2, 0.1 in FusionBench's generic
    configuration; 0.9 in the paper, as here. They take an inverse, without a ridge.

    Attributes:
      shrink: Factor on off-diagonal numbers.
      ridge: Of the mean of diagonals.
      rank: Of the merged LoRAs; 0 for the sum of the experts' ranks.
    """

    name: ClassVar[str] = "regmean"
    reference: ClassVar[str] = "Jin et al. 2022, arXiv:2212.09849"
    needs_statistics: ClassVar[str] = "Gram matrices of the inputs of each matrix"
    measures: ClassVar[Measure] = "grams"
    shrink: fields.Share = 0.9
    ridge: fields.Positive = 1e-6
    rank: fields.CountOrNone = 0

    @property
    def on_effects(self) -> bool:
        """LoRAs are merged as products."""
        return True

    def _keeps_one(self) -> bool:
        return not self.rank

    def _layout(self, num_experts: int, rank: int) -> Layout:
        return Layout(rank=(self.rank or num_experts * rank) if rank else 0)

    def _mean(
        self,
        experts: Sequence[Leaves],
        measured: Sequence[Leaves],
        weights: np.ndarray,
        beside: Beside,
        orders: aligning.Orders,
    ) -> tuple[Leaves, int]:
        merged: Leaves = {}
        linear = aligning.places(beside, is_linear=True).values()
        rank = 0
        for names in linear:
            first, second = sorted(names, key=lambda name: beside[name].takes_factor)
            rank = self._layout(len(experts), experts[0][first].shape[-1]).rank
            pairs = [(expert[first], expert[second]) for expert in experts]
            grams = [statistic[first] for statistic in measured if first in statistic]
            merged[first], merged[second] = self._products(
                first, pairs, grams, weights=weights, rank=rank
            )
        for name, like in experts[0].items():
            if name in merged:
                continue
            leaves = [expert[name] for expert in experts]
            grams = [statistics[name] for statistics in measured if name in statistics]
            out = np.zeros_like(like)
            for number, (_, index) in enumerate(layers.units(name, like)):
                parts: Sequence[np.ndarray] = [leaf[index] for leaf in leaves]
                layer_grams: Sequence[np.ndarray] = [gram[index] for gram in grams]
                _check_grams(name, parts[0], layer_grams)
                if name in orders:
                    order, axis = orders[name][number], beside[name].axis
                    parts = aligning.Reordered(parts, order, axis)
                    layer_grams = layer_grams and _moved(layer_grams, order, axis)
                out[index] = self._of_layer(parts, layer_grams, weights)
            merged[name] = out
        return dict(sorted(merged.items())), rank

    def _of_layer(
        self,
        parts: Sequence[np.ndarray],
        grams: Sequence[np.ndarray],
        weights: np.ndarray,
    ) -> np.ndarray:
        """Returns one merged layer of a parameter, in its dtype."""
        like = parts[0]
        if grams and like.ndim == _MATRIX:
            total, terms = self._equations(grams, parts, weights)
            pulled = np.zeros(like.shape)
            for term in terms:  # of which one at a time is in memory
                pulled += term
            return np.linalg.solve(total, pulled).astype(like.dtype)
        return weighed(parts, weights, grams)

    def _products(
        self,
        name: str,
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        grams: Sequence[np.ndarray],
        *,
        weights: np.ndarray,
        rank: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the matrices A and B of merged LoRAs, of which A has this name."""
        like_a, like_b = pairs[0]
        a = np.zeros((*like_a.shape[:-1], rank), like_a.dtype)
        b = np.zeros((*like_b.shape[:-2], rank, like_b.shape[-1]), like_b.dtype)
        for _, index in layers.units(name, a):
            firsts = [first[index].astype(float) for first, _ in pairs]
            layer_grams = [gram[index] for gram in grams]
            for gram in layer_grams:
                _check_shape(name, gram, (pairs[0][0].shape[-2],) * _MATRIX)
            if layer_grams:
                total, terms = self._equations(layer_grams, firsts, weights)
                parts = np.linalg.solve(total, np.concatenate([*terms], axis=1))
            else:
                shares = weights / weights.sum()
                parts = np.concatenate(
                    [share * a for share, a in zip(shares, firsts, strict=True)], axis=1
                )
            left, inner = np.linalg.qr(parts)
            below = np.concatenate([q[index].astype(float) for _, q in pairs])
            outer, right = np.linalg.qr(below.T)
            first, second, _ = core.cut(inner @ right.T, rank)
            a[index] = (left @ first).astype(a.dtype)
            b[index] = (second @ outer.T).astype(b.dtype)
        return a, b

    def _equations(
        self,
        grams: Sequence[np.ndarray],
        matrices: Sequence[np.ndarray],
        weights: np.ndarray,
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """Returns `sum_t G_t` and each `G_t W_t`, with weights, shrunk, with a ridge.

        Args:
          grams: G_t of each expert, [inputs, inputs].
          matrices: W_t of each, [inputs, any].
          weights: The weight of each expert.
        """
        width = grams[0].shape[-1]
        total = np.zeros((width, width))
        for gram, weight in zip(grams, weights, strict=True):
            total += self._shrunk(gram, weight)
        ridge = self.ridge * (float(np.trace(total)) / width or 1.0)
        total[np.diag_indices(width)] += ridge
        parts = weights / weights.sum() * ridge

        def terms() -> Iterator[np.ndarray]:
            several = zip(grams, matrices, weights, parts, strict=True)
            for gram, matrix, weight, part in several:
                values = matrix.astype(np.float64, copy=False)
                yield self._shrunk(gram, weight) @ values + part * values

        return total, terms()

    def _shrunk(self, gram: np.ndarray, weight: float) -> np.ndarray:
        shrunk = gram * np.float64(weight * self.shrink)
        np.fill_diagonal(shrunk, np.float64(weight) * np.diag(gram))
        return shrunk


def _moved(
    grams: Sequence[np.ndarray], order: Sequence[np.ndarray], axis: int
) -> Sequence[np.ndarray]:
    """Returns the statistics of a parameter whose hidden units are reordered.

    Args:
      grams: Of each expert, of one layer; one or more.
      order: Of the units, for each.
      axis: Of the parameter's that are the units.
    """
    if grams[0].ndim < _MATRIX:  # of a bias, whose numbers are the units'
        return aligning.Reordered(grams, order, 0)
    if axis != -2:  # noqa: PLR2004 - its inputs are no units
        return grams
    rows = aligning.Reordered(grams, order, 0)
    return aligning.Reordered(rows, order, 1)


def _check_grams(name: str, like: np.ndarray, grams: Sequence[np.ndarray]) -> None:
    is_matrix = like.ndim == _MATRIX
    for gram in grams:
        _check_shape(name, gram, like.shape[:1] * _MATRIX if is_matrix else like.shape)


def _check_shape(name: str, gram: np.ndarray, shape: tuple[int, ...]) -> None:
    if gram.shape != shape:
        combining.refuse(
            found=f"statistics of shape {gram.shape} for a layer of {name}",
            expected=f"{shape}",
            do="Give Gram matrices of a matrix's inputs, and mean squares of a vector",
        )
