"""Sums of adapters that are made narrower again, with the error that it costs."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Never

import numpy as np
import scipy.linalg

from elm_jax import fields, trees
from elm_jax.merging import aligning, combining, layers, spectral, task_arithmetic
from elm_jax.merging.measured import MergeByStatistics
from elm_jax.merging.method import Beside, Layout, Measure, Merged, Statistics
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrowed(MergeByStatistics):
    """The sum of the experts' effects, in adapters as wide as `count` experts'.

    Of T bottlenecks beside each other, with hidden activations H [rows, T widths] on
    the same rows and outputs H U, the units are kept that a QR decomposition of
    `H diag(|U|)` with pivoting chooses, and their U is the least squares solution of
    the same outputs. The facts tell `|H U - H' U'| / |H U|` of each adapter in each
    layer: 0 where nothing is lost. LoRAs are cut to `count` times their rank, which
    needs no activations, as by `low_rank_sum`. All other parameters are added up.

    Statistics: hidden activations [rows, width], of the same rows in the same order
    with each expert, by the name of the matrix U that reads them.

    Tools: none narrows bottlenecks.

    Attributes:
      weights: One per expert, as of `task_arithmetic.TaskArithmetic`.
      scale: Factor on the sum.
      count: How many experts' widths the result has.
    """

    name: ClassVar[str] = "narrowed"
    reference: ClassVar[str] = (
        "He and Xiao 2018, arXiv:1707.06168 (units by least squares); Ilharco et al."
        " 2023, arXiv:2212.04089 (the sum)"
    )
    needs_base: ClassVar[bool] = True
    needs_statistics: ClassVar[str] = "hidden activations of each bottleneck"
    measures: ClassVar[Measure] = "hidden"
    weights: tuple[fields.Finite, ...] = ()
    scale: fields.Finite = 1.0
    count: fields.Count = 1

    @property
    def on_effects(self) -> bool:
        """LoRAs are merged as products."""
        return True

    def _keeps_one(self) -> bool:
        return self.scale == 1.0 and self.weights in ((), (1.0,))

    def _layout(self, num_experts: int, rank: int) -> Layout:
        if rank:
            return Layout(rank=rank * min(self.count, num_experts))
        summed = task_arithmetic.TaskArithmetic(weights=self.weights, scale=self.scale)
        num_beside = summed.layout(num_experts, rank).num_beside
        return Layout(min(num_beside, self.count))

    def _merge_with(
        self,
        experts: Sequence[Params],
        base: Params | None,
        beside: Beside,
        statistics: Sequence[Statistics],
    ) -> Merged:
        marks = [f"{number:06d}" for number in range(len(experts))]  # as they come
        options = {"weights": self.weights, "scale": self.scale}
        linear = [name for name, side in beside.items() if side.is_linear]
        if linear:
            leaf = trees.flatten(experts[0])[linear[0]]
            width = leaf.shape[beside[linear[0]].axis]
            rank = self._layout(len(experts), width).rank
            cut = spectral.LowRankSum(rank=rank, **options)
            return cut.merge(experts, base=base, beside=beside, marks=marks)
        summed = task_arithmetic.TaskArithmetic(**options).merge(
            experts, base=base, beside=beside, marks=marks
        )
        if summed.num_beside <= self.count or not beside:
            return summed
        leaves, facts = dict(trees.flatten(summed.params)), {}
        for names in aligning.places(beside, is_linear=False).values():
            axes = {name: beside[name].axis for name in names}
            outer = next(name for name in names if beside[name].takes_factor)
            measured = [_activations(statistic, outer) for statistic in statistics]
            facts |= self._narrow(axes, outer, leaves, measured)
        for name, leaf in leaves.items():
            combining.check_finite(name, leaf)
        return Merged(trees.unflatten(leaves), self.count, facts=facts)

    def _narrow(
        self,
        axes: dict[str, int],
        outer: str,
        leaves: dict[str, np.ndarray],
        measured: Sequence[np.ndarray],
    ) -> dict[str, float]:
        """Narrows an adapter's leaves, and returns its errors by layer."""
        wide = {name: leaves[name] for name in axes}
        num_kept = wide[outer].shape[-2] // len(measured) * self.count
        for name, axis in axes.items():
            shape = list(wide[name].shape)
            shape[axis] = num_kept
            leaves[name] = np.zeros(shape, wide[name].dtype)
        facts = {}
        for unit, index in layers.units(outer, wide[outer]):
            hidden = np.concatenate(
                [activations[index] for activations in measured], axis=-1
            )
            matrix = wide[outer][index].astype(np.float64)
            if hidden.shape[-1] != len(matrix):
                _refuse(outer, f"{hidden.shape[-1]} units of {len(matrix)}")
            chosen, narrow, error = narrowed(hidden, matrix, num_kept)
            for name, axis in axes.items():
                leaves[name][index] = wide[name][index].take(chosen, axis=axis)
            leaves[outer][index] = narrow.astype(wide[outer].dtype)
            facts[f"relative_error/{unit}"] = error
        return facts


def narrowed(
    hidden: np.ndarray, matrix: np.ndarray, num_kept: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the units to keep, the matrix that reads them, and the resulting error.

    Args:
      hidden: Activations [rows, units].
      matrix: What reads them, [units, outputs].
      num_kept: How many units are kept.

    Returns:
      Places of units [num_kept], ascending; a matrix [num_kept, outputs]; and the
      Euclidean norm of the outputs' error, divided by that of the outputs; 0 if these
      are 0.
    """
    outputs = hidden @ matrix
    weighed = hidden * np.linalg.norm(matrix, axis=1)
    order = np.asarray(scipy.linalg.qr(weighed, mode="r", pivoting=True)[-1])
    chosen = np.sort(order[:num_kept])
    narrow_matrix = np.linalg.lstsq(hidden[:, chosen], outputs)[0]
    size = np.linalg.norm(outputs)
    error = np.linalg.norm(outputs - hidden[:, chosen] @ narrow_matrix)
    return chosen, narrow_matrix, float(error / size) if size else 0.0


def _activations(statistics: Statistics, name: str) -> np.ndarray:
    leaves = trees.flatten(statistics)
    if name not in leaves or not np.isfinite(leaves[name]).all():
        _refuse(name, "none that are finite")
    return np.asarray(leaves[name], np.float64)


def _refuse(name: str, problem: str) -> Never:
    combining.refuse(
        found=f"hidden activations for {name}: {problem}",
        expected="[rows, width] with each expert, of the same rows",
        do="Measure them with each expert as it is",
    )
