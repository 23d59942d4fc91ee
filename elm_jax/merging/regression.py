"""Averages that weigh each parameter by what was measured with each expert."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from elm_jax import fields
from elm_jax.merging import aligning, combining, core, layers
from elm_jax.merging.measured import Leaves, StatisticsMethod, weighed
from elm_jax.merging.method import Beside, Measure

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

    def _move(
        self,
        measured: Leaves,
        name: str,
        index: tuple[Any, ...],
        order: np.ndarray,
        axis: int,
    ) -> None:
        if name in measured:
            measured[name][index] = measured[name][index].take(order, axis=axis)

    def _mean(
        self,
        experts: Sequence[Leaves],
        measured: Sequence[Leaves],
        weights: np.ndarray,
        beside: Beside,
    ) -> tuple[Leaves, int]:
        del beside
        merged = {}
        for name, like in experts[0].items():
            shares = [
                weight
                * np.maximum(statistics.get(name, np.ones(like.shape)), self.least)
                for weight, statistics in zip(weights, measured, strict=True)
            ]
            merged[name] = weighed([expert[name] for expert in experts], shares)
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

    def _move(
        self,
        measured: Leaves,
        name: str,
        index: tuple[Any, ...],
        order: np.ndarray,
        axis: int,
    ) -> None:
        if name not in measured:
            return
        gram = measured[name][index]
        if gram.ndim < _MATRIX:  # of a bias, whose numbers are the units'
            measured[name][index] = gram[order]
        elif axis == -2:  # noqa: PLR2004 - its inputs are the units
            measured[name][index] = gram[order][:, order]

    def _mean(
        self,
        experts: Sequence[Leaves],
        measured: Sequence[Leaves],
        weights: np.ndarray,
        beside: Beside,
    ) -> tuple[Leaves, int]:
        merged: Leaves = {}
        linear = aligning.places(beside, is_linear=True).values()
        rank = 0
        for names in linear:
            first, second = sorted(names, key=lambda name: beside[name].takes_factor)
            rank = self.rank or len(experts) * experts[0][first].shape[-1]
            pairs = [(expert[first], expert[second]) for expert in experts]
            grams = [statistics.get(first) for statistics in measured]
            merged[first], merged[second] = self._products(
                first, pairs, grams, weights=weights, rank=rank
            )
        for name, like in experts[0].items():
            if name in merged:
                continue
            leaves = [expert[name] for expert in experts]
            grams = [statistics[name] for statistics in measured if name in statistics]
            out = np.zeros_like(like)
            for _, index in layers.units(name, like):
                parts = [leaf[index] for leaf in leaves]
                given = [gram[index] for gram in grams]
                out[index] = self._of_layer(name, parts, given, weights)
            merged[name] = out
        return dict(sorted(merged.items())), rank

    def _of_layer(
        self,
        name: str,
        parts: Sequence[np.ndarray],
        grams: Sequence[np.ndarray],
        weights: np.ndarray,
    ) -> np.ndarray:
        """Returns one merged layer of a parameter, in its dtype."""
        like = parts[0]
        is_matrix = like.ndim == _MATRIX
        wanted = (like.shape[0],) * _MATRIX if is_matrix else like.shape
        for gram in grams:
            _check_shape(name, gram, wanted)
        if grams and is_matrix:
            terms = zip(self._solved(grams, weights), parts, strict=True)
            total = np.sum(
                [share @ part.astype(float) for share, part in terms], axis=0
            )
            return total.astype(like.dtype)
        ones = [np.ones(like.shape)] * len(parts)
        pairs = zip(weights, grams or ones, strict=True)
        return weighed(parts, [weight * gram for weight, gram in pairs])

    def _products(
        self,
        name: str,
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        grams: Sequence[np.ndarray | None],
        *,
        weights: np.ndarray,
        rank: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the matrices A and B of merged LoRAs, of which A has this name."""
        like_a, like_b = pairs[0]
        a = np.zeros((*like_a.shape[:-1], rank), like_a.dtype)
        b = np.zeros((*like_b.shape[:-2], rank, like_b.shape[-1]), like_b.dtype)
        for _, index in layers.units(name, a):
            shares = [np.asarray(weight / weights.sum()) for weight in weights]
            if grams[0] is not None:
                width = (pairs[0][0].shape[-2],) * _MATRIX
                for gram in grams:
                    _check_shape(name, np.asarray(gram)[index], width)
                shares = self._solved([np.asarray(g)[index] for g in grams], weights)
            parts = [
                np.dot(share, first[index].astype(float))
                for share, (first, _) in zip(shares, pairs, strict=True)
            ]
            left, inner = np.linalg.qr(np.concatenate(parts, axis=1))
            below = np.concatenate([q[index].astype(float) for _, q in pairs])
            outer, right = np.linalg.qr(below.T)
            first, second, _ = core.cut(inner @ right.T, rank)
            a[index] = (left @ first).astype(a.dtype)
            b[index] = (second @ outer.T).astype(b.dtype)
        return a, b

    def _solved(
        self, grams: Sequence[np.ndarray], weights: np.ndarray
    ) -> list[np.ndarray]:
        """Returns each expert's share of the solution, matrices [inputs, inputs]."""
        width = grams[0].shape[-1]
        shrunk = [
            weight * (self.shrink * gram + (1 - self.shrink) * np.diag(np.diag(gram)))
            for weight, gram in zip(weights, np.asarray(grams, float), strict=True)
        ]
        total = np.sum(shrunk, axis=0)
        ridge = self.ridge * (np.trace(total) / width or 1.0)
        parts = weights / weights.sum() * ridge
        total = total + ridge * np.eye(width)
        return [
            np.linalg.solve(total, gram + part * np.eye(width))
            for gram, part in zip(shrunk, parts, strict=True)
        ]


def _check_shape(name: str, gram: np.ndarray, wanted: tuple[int, ...]) -> None:
    if gram.shape != wanted:
        combining.refuse(
            found=f"statistics of shape {gram.shape} for a layer of {name}",
            expected=f"{wanted}",
            do="Give Gram matrices of a matrix's inputs, and mean squares of a vector",
        )
