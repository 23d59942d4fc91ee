"""What averages by statistics of each expert have in common.

The statistics are plain arrays, by names of leaves: whoever runs the model makes them.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import aligning, averages, combining
from elm_jax.merging.method import Beside, MergeByStatistics, Merged, Statistics
from elm_jax.types import Params

Leaves = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatisticsMethod(MergeByStatistics):
    """An average by statistics of each expert.

    Attributes:
      weights: One per expert, at least 0 and not all 0: how much it counts besides;
        empty for equal ones.
      align: Whether hidden units of bottlenecks are matched first; `aligning` tells
        how. What was measured of them moves with them.
    """

    knows_adapters: ClassVar[bool] = True
    weights: tuple[fields.Finite, ...] = ()
    align: bool = True

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that make no average."""
        super().__post_init__()
        averages.Weighted(weights=self.weights)

    def _keeps_one(self) -> bool:
        return True

    def _merge_with(
        self,
        experts: Sequence[Params],
        base: Params | None,
        beside: Beside,
        statistics: Sequence[Statistics],
    ) -> Merged:
        del base
        weights = np.array(self.weights or (1.0,) * len(experts))
        measured = [
            {name: np.array(leaf) for name, leaf in trees.flatten(tree).items()}
            for tree in statistics
        ]
        flat: Sequence[Mapping[str, Any]] = [
            trees.flatten(expert) for expert in experts
        ]
        _check_measured(flat[0], measured, self.name)
        if self.align:

            def on_move(
                number: int, name: str, index: tuple[Any, ...], order: np.ndarray
            ) -> None:
                self._move(measured[number], name, index, order, beside[name].axis)

            flat = aligning.aligned(
                flat, beside, reference=int(np.argmax(weights)), on_move=on_move
            )
        parts = [{n: np.asarray(leaf) for n, leaf in leaves.items()} for leaves in flat]
        merged, rank = self._mean(parts, measured, weights, beside)
        for name, leaf in merged.items():
            combining.check_finite(name, leaf)
        return Merged(trees.unflatten(merged), rank=rank)

    @abc.abstractmethod
    def _mean(
        self,
        experts: Sequence[Leaves],
        measured: Sequence[Leaves],
        weights: np.ndarray,
        beside: Beside,
    ) -> tuple[Leaves, int]:
        """Returns merged leaves, and the rank of merged LoRAs or 0."""

    @abc.abstractmethod
    def _move(
        self,
        measured: Leaves,
        name: str,
        index: tuple[Any, ...],
        order: np.ndarray,
        axis: int,
    ) -> None:
        """Moves what was measured of hidden units that change places."""


def _check_measured(
    expert: Mapping[str, Any], measured: Sequence[Leaves], name: str
) -> None:
    for number, leaves in enumerate(measured):
        unknown = sorted(leaves.keys() - expert.keys())
        differing = sorted(leaves.keys() ^ measured[0].keys())
        not_finite = [n for n, leaf in leaves.items() if not np.isfinite(leaf).all()]
        if unknown or differing or not_finite:
            combining.refuse(
                found=f"statistics {number} for {name}:"
                f" {', '.join([*unknown, *differing, *not_finite])}",
                expected="finite numbers for the experts' parameters, by their names,"
                " and for the same of each expert",
                do="Measure them with each expert as it is",
            )


def weighed(leaves: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a mean of each number, in the dtype of the leaves.

    Args:
      leaves: Of each expert.
      shares: How much each number of each expert counts, at least 0. Where none counts
        it is the first expert's.
    """
    total = np.sum(shares, axis=0)
    first = leaves[0].astype(np.float64)
    rest = sum(
        share * (leaf.astype(np.float64) - first)
        for share, leaf in zip(shares, leaves, strict=True)
    )
    change = np.divide(rest, total, out=np.zeros(first.shape), where=total > 0)
    return (first + change).astype(leaves[0].dtype)
