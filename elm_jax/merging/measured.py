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
_AT_ONCE = 1 << 20  # numbers whose sums are in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeByStatistics(MergeMethod):
    """A method that always needs statistics; subclasses define `_merge_with`."""

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
    only_ratios: ClassVar[bool] = True
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
            {name: np.asarray(leaf) for name, leaf in trees.flatten(statistic).items()}
            for statistic in statistics
        ]
        flat = [
            {name: np.asarray(leaf) for name, leaf in trees.flatten(expert).items()}
            for expert in experts
        ]
        check_names(flat[0], measured, self.name)
        _check_finite(measured, self.name)
        orders: aligning.Orders = {}
        if self.align:
            reference = int(np.argmax(weights))
            orders = aligning.orders(flat, beside, reference=reference)
        merged, rank = self._mean(flat, measured, weights, beside, orders)
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
        orders: aligning.Orders,
    ) -> tuple[Leaves, int]:
        """Returns merged leaves, and the rank of merged LoRAs or 0.

        Args:
          experts: Their leaves by name.
          measured: What was measured with each, by the same names.
          weights: How much each counts.
          beside: Which leaves belong to adapters.
          orders: Of hidden units, in which experts and what was measured are merged.
        """


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
    like = leaves[0]
    out = np.empty(like.shape, like.dtype)
    flat_out, small = out.reshape(-1), combining.CHUNK_SIZE
    for start in range(0, out.size, _AT_ONCE):
        stop = min(start + _AT_ONCE, out.size)
        first_values = np.ravel(like)[start:stop].astype(np.float64)
        total, rest = np.zeros_like(first_values), np.zeros_like(first_values)
        for place, weight in enumerate(weights):
            # A layer in another order is moved whenever it is asked for.
            values = np.ravel(leaves[place])[start:stop]
            counts = np.ravel(measured[place])[start:stop] if measured else None
            for at in range(0, stop - start, small):  # stays in the cache
                part = slice(at, at + small)
                share = np.full_like(first_values[part], weight)
                if counts is not None:
                    share *= np.maximum(counts[part].astype(np.float64), least)
                total[part] += share
                rest[part] += share * (
                    values[part].astype(np.float64) - first_values[part]
                )
        change = np.divide(
            rest, total, out=np.zeros_like(first_values), where=total > 0
        )
        flat_out[start:stop] = (first_values + change).astype(out.dtype)
    return out
