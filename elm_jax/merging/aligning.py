"""Bottlenecks whose hidden units are put in one order before they are averaged.

A bottleneck `U g(D x + b) + c` does the same if its hidden units change places: columns
of D with their biases, and rows of U. Two that learnt the same units in another order
have a mean that does neither. So the units of each expert are first matched with those
of one of them: the permutation with the greatest sum of inner products of what belongs
to a unit, its parts of D, b and U.

Reference:
  Singh and Jaggi 2020, arXiv:1910.05653 (fusion after alignment);
  Ainsworth et al. 2023, arXiv:2209.04836 (matching of weights);
  for adapters He et al. 2023, arXiv:2308.15982.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import optimize

from elm_jax import fields, trees
from elm_jax.merging import averages, layers, threads
from elm_jax.merging.method import Beside, Merged, MergeMethod, Unit
from elm_jax.types import Params

Leaves = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedAverage(MergeMethod):
    """The mean of the experts' parameters, their hidden units matched before.

    `sum w_t P_t x_t / sum w_t`. P_t puts the units of each bottleneck of x_t in the
    order that those of the expert with the greatest weight have: it is the permutation
    with the greatest sum of inner products of what belongs to a unit. All other
    parameters, and the two matrices of LoRAs, which have no units to match, are
    averaged as they are: of LoRAs, take `low_rank_sum`.

    Tools: no other tool merges bottlenecks. MerA (arXiv:2308.15982)
    matches by optimal transport, which gives a permutation, too, where all units weigh
    alike.

    Attributes:
      weights: One per expert, at least 0 and not all 0, of which only the ratios count;
        empty for equal ones.
    """

    name: ClassVar[str] = "aligned"
    reference: ClassVar[str] = (
        "Ainsworth et al. 2023, arXiv:2209.04836; He et al. 2023, arXiv:2308.15982"
    )
    only_ratios: ClassVar[bool] = True
    knows_adapters: ClassVar[bool] = True
    weights: tuple[fields.Finite, ...] = ()

    @property
    def unit(self) -> Unit:
        """An adapter's parameters depend on each other."""
        return "place"

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that make no average."""
        super().__post_init__()
        averages.Weighted(weights=self.weights)

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        flat = [trees.flatten(expert) for expert in experts]
        weights = self.weights or (1.0,) * len(experts)
        matched = aligned(flat, beside, reference=int(np.argmax(weights)))
        method = averages.Weighted(weights=tuple(weights))
        return method.merge([trees.unflatten(leaves) for leaves in matched])


def places(beside: Beside, *, is_linear: bool) -> dict[str, list[str]]:
    """Returns the names of the parameters of adapters, by the adapters' names.

    Args:
      beside: Of these parameters.
      is_linear: Whether those that are products are asked for, or all others.
    """
    by_place: dict[str, list[str]] = collections.defaultdict(list)
    for name, side in beside.items():
        if side.is_linear == is_linear:
            by_place[side.place].append(name)
    return dict(by_place)


def aligned(
    experts: Sequence[Mapping[str, Any]],
    beside: Beside,
    *,
    reference: int,
) -> list[dict[str, np.ndarray]]:
    """Returns experts with the units of bottlenecks in the order of one expert.

    Args:
      experts: Their leaves by name.
      beside: Which of them belong to adapters.
      reference: The expert, by its number, whose order the others get.
    """
    reordered = [{name: np.asarray(leaf) for name, leaf in e.items()} for e in experts]
    units_by_name = orders(reordered, beside, reference=reference)
    for number, leaves in enumerate(reordered):
        if number == reference:
            continue
        for name, of_layers in units_by_name.items():
            axis = beside[name].axis
            moved_leaf = np.empty_like(leaves[name])
            indices = layers.units(name, leaves[name])
            for (_, index), several in zip(indices, of_layers, strict=True):
                moved_leaf[index] = leaves[name][index].take(several[number], axis=axis)
            leaves[name] = moved_leaf
    return reordered


Orders = Mapping[str, Sequence[Sequence[np.ndarray]]]
"""Orders of units [width]: by parameter, then by layer, then by expert."""


def orders(experts: Sequence[Leaves], beside: Beside, *, reference: int) -> Orders:
    """Returns the orders in which bottlenecks' units fit those of one expert.

    Args:
      experts: Their leaves by name.
      beside: Which of them belong to adapters.
      reference: The expert, by its number, whose order the others get.
    """
    if len(experts) == 1:
        return {}
    of_names: dict[str, list[list[np.ndarray]]] = {}
    for names in places(beside, is_linear=False).values():
        axes = {name: beside[name].axis for name in names}
        of_layers = [
            _of_layer(experts, reference, index, axes)
            for _, index in layers.units(names[0], experts[reference][names[0]])
        ]
        of_names |= dict.fromkeys(names, of_layers)
    return of_names


def _of_layer(
    experts: Sequence[Leaves], reference: int, index: Any, axes: Mapping[str, int]
) -> list[np.ndarray]:
    like_layer = {name: experts[reference][name][index] for name in axes}
    numbers = len(experts) * sum(leaf.size for leaf in like_layer.values())

    def order(place: int) -> np.ndarray:
        if experts[place] is experts[reference]:
            name, axis = next(iter(axes.items()))
            return np.arange(like_layer[name].shape[axis])
        source = {name: experts[place][name][index] for name in axes}
        return matching(like_layer, source, axes)

    return threads.each(order, range(len(experts)), numbers=numbers)


@dataclasses.dataclass(frozen=True)
class Reordered(Sequence[np.ndarray]):
    """Layers of a parameter with their units in other places; moved when asked for.

    Attributes:
      layers: Of each expert.
      order: Of the units, for each.
      axis: Of the units.
    """

    layers: Sequence[np.ndarray]
    order: Sequence[np.ndarray]
    axis: int

    def __len__(self) -> int:
        """Returns how many experts there are."""
        return len(self.layers)

    def __getitem__(self, place: Any) -> Any:
        """Returns the layer of an expert, by its number."""
        return self.layers[place].take(self.order[place], axis=self.axis)


def matching(target: Leaves, source: Leaves, axes: Mapping[str, int]) -> np.ndarray:
    """Returns the order of units [width] that comes nearest to another adapter's.

    Args:
      target: One layer's parameters of the adapter whose order is the target.
      source: Of the adapter whose units are to change places.
      axes: Of each parameter, the axis of the units.
    """
    gains = sum(
        _by_unit(target[name], axis) @ _by_unit(source[name], axis).T
        for name, axis in sorted(axes.items())
    )
    _, order = optimize.linear_sum_assignment(gains, maximize=True)
    return order


def _by_unit(leaf: np.ndarray, axis: int) -> np.ndarray:
    """Returns what belongs to each unit, [width, numbers], at least float32."""
    rows = np.moveaxis(leaf, axis, 0)
    rows = rows.reshape(len(rows), -1)
    return rows.astype(np.result_type(rows.dtype, np.float32), copy=False)
