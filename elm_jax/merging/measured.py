"""What averages by statistics of each expert have in common.

The statistics are plain arrays, by names of leaves: whoever runs the model makes them.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Never

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import aligning, averages, combining
from elm_jax.merging.method import (
    Beside,
    Merged,
    MergeMethod,
    Statistics,
    Unit,
)
from elm_jax.types import Params

Leaves = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeByStatistics(MergeMethod):
    """A method that is always given statistics; `_merge_with` is what it does."""

    @property
    def unit(self) -> Unit:
        """An adapter's parameters depend on each other."""
        return "place"

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        raise AssertionError("it is given statistics")  # `merge` has looked

    @abc.abstractmethod
    def _merge_with(
        self,
        experts: Sequence[Params],
        base: Params | None,
        beside: Beside,
        statistics: Sequence[Statistics],
    ) -> Merged:
        """Returns the merged expert; the arguments are checked, as `merge` has them."""


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
        # What was measured of hidden units may be moved, in place.
        measured = [
            {n: (np.array if n in beside else np.asarray)(a) for n, a in each.items()}
            for each in map(trees.flatten, statistics)
        ]
        flat: Sequence[Mapping[str, Any]] = [
            trees.flatten(expert) for expert in experts
        ]
        check_names(flat[0], measured, self.name)
        _check_finite(measured, self.name)
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


def check_names(
    expert: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], name: str
) -> None:
    """Raises ConfigError if statistics are of other parameters, or of several sets.

    Args:
      expert: The leaves of an expert, by name.
      measured: What was measured with each, by the same names.
      name: Of the method, for the message.
    """
    for number, leaves in enumerate(measured):
        unknown = sorted(leaves.keys() - expert.keys())
        differing = sorted(leaves.keys() ^ measured[0].keys())
        if unknown or differing:
            _refuse(name, number, [*unknown, *differing])


def _check_finite(measured: Sequence[Leaves], name: str) -> None:
    for number, leaves in enumerate(measured):
        wrong = [n for n, leaf in leaves.items() if not np.isfinite(leaf).all()]
        if wrong:
            _refuse(name, number, wrong)


def _refuse(name: str, number: int, leaves: Sequence[str]) -> Never:
    combining.refuse(
        found=f"statistics {number} for {name}: {', '.join(leaves)}",
        expected="finite numbers for the experts' parameters, by their names, and for"
        " the same of each expert",
        do="Measure them with each expert as it is",
    )


def weighed(
    leaves: Sequence[np.ndarray],
    weights: np.ndarray,
    measured: Sequence[np.ndarray] = (),
    *,
    least: float = 0.0,
) -> np.ndarray:
    """Returns a mean of each number, in the dtype of the leaves.

    Sums are in float64. Of these there are a few numbers at a time, one expert's after
    another's, so that they take no memory.

    Args:
      leaves: Of each expert.
      weights: How much each expert counts.
      measured: How much each number of each expert counts besides, at least 0; empty
        for 1. Where none counts, the result is the first expert's.
      least: What the numbers in `measured` are at least.
    """
    flat, counts = ([np.ravel(a) for a in arrays] for arrays in (leaves, measured))
    out = np.empty(leaves[0].shape, leaves[0].dtype)
    each = out.reshape(-1)
    for start in range(0, out.size, combining.CHUNK_SIZE):
        part = slice(start, start + combining.CHUNK_SIZE)
        first = flat[0][part].astype(np.float64)
        total, rest = np.zeros_like(first), np.zeros_like(first)
        for place, weight in enumerate(weights):
            share = np.full_like(first, weight)
            if counts:
                share *= np.maximum(counts[place][part].astype(np.float64), least)
            total += share
            rest += share * (flat[place][part].astype(np.float64) - first)
        change = np.divide(rest, total, out=np.zeros_like(first), where=total > 0)
        each[part] = (first + change).astype(out.dtype)
    return out
