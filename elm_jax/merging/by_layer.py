"""Experts a layer at a time, and the expert that is written a layer at a time."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax.merging import aligning, combining, layers, views
from elm_jax.merging.method import Beside

_MATRICES = 3  # axes of [experts, m, n]


@dataclasses.dataclass(frozen=True)
class ByLayer:
    """Experts a layer at a time, and the expert that is made of them.

    Attributes:
      experts: Leaves by name, NumPy arrays.
      base: The base's.
      beside: Which belong to adapters that lie beside each other.
      out: The result, to be written.
      space: In which numbers LoRAs are merged: those of their cores, of their two
        matrices apart ("parameters"), or, as all matrices, of "knots".
      orders: Of hidden units, in which they are merged.
    """

    experts: Sequence[views.Leaves]
    base: views.Leaves
    beside: Beside
    out: dict[str, np.ndarray]
    space: views.Space
    orders: aligning.Orders

    def __iter__(self) -> Iterator[views.View]:
        """Yields each layer of each parameter, and of each LoRA, once."""
        return self._in_knots() if self.space == "knots" else self._plain()

    def _in_knots(self) -> Iterator[views.View]:
        """Yields a view whose vectors are being found after others, or when they end.

        Finding them keeps one of two threads busy, and the other one merges meanwhile.
        """
        waiting = None
        for plain_view in self._plain():
            view = _in_knots(plain_view)
            if isinstance(view, views.KnotsView) and view.takes_long:
                view, waiting = waiting, view
            if view is not None:
                yield view
        if waiting is not None:
            yield waiting

    def _plain(self) -> Iterator[views.View]:
        linear = aligning.places(self.beside, is_linear=True)
        if self.space == "parameters":
            linear = {}
        products = {name for names in linear.values() for name in names}
        leaves = [*self.experts[0].items()]
        if self.space == "knots":  # wide ones first: their vectors take longest
            leaves.sort(key=lambda item: -(item[1].shape or (0,))[-1])
        for name, like in leaves:
            if name not in products:
                yield from self._of_leaf(name, like)
        for place, names in linear.items():
            yield from self._of_product(place, names)

    def _of_leaf(self, name: str, like: np.ndarray) -> Iterator[views.View]:
        side = self.beside.get(name)
        half: views.Half = ""
        if side is not None and side.is_linear:
            half = "second" if side.takes_factor else "first"
        for number, (unit, index) in enumerate(layers.units(name, like)):
            several: Sequence[np.ndarray] = [e[name][index] for e in self.experts]
            if side is not None and name in self.orders:
                order = self.orders[name][number]
                several = aligning.Reordered(several, order, side.axis)
            yield views.LeafView(
                unit,
                several,
                self.base[name][index] if name in self.base else None,
                self.out[name][index],
                is_inner=side is not None
                and not side.is_linear
                and not side.takes_factor,
                half=half,
            )

    def _of_product(self, place: str, names: Sequence[str]) -> Iterator[views.View]:
        left, right = sorted(names, key=lambda name: self.beside[name].takes_factor)
        for unit, index in layers.units(place, self.experts[0][left]):
            yield views.ProductView(
                unit,
                views.Factors(
                    [leaves[left][index] for leaves in self.experts],
                    [leaves[right][index] for leaves in self.experts],
                    self.out[left][index],
                    self.out[right][index],
                ),
            )


def _in_knots(view: views.View) -> views.View:
    """Returns a view of matrices that are not all zeros in the vectors they share."""
    changes = view.changes()
    if changes.ndim == _MATRICES and changes.any():
        return views.KnotsView(view, changes)
    return view


def of(
    experts: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any],
    beside: Beside,
    *,
    space: views.Space,
    rank: int,
    reference: int | None,
) -> ByLayer:
    """Returns experts a layer at a time, with room for the result.

    Args:
      experts: Leaves by name.
      base: Of all leaves that are not in `beside`.
      beside: Leaves of adapters, of which the base has none.
      space: In which numbers LoRAs are merged; `ByLayer.space` lists them.
      rank: Inner width of the result's LoRAs, but for space "parameters".
      reference: The expert whose order the units of bottlenecks get; None for none.

    Raises:
      ConfigError: The base has not the leaves that it must have.
    """
    arrays = [{n: np.asarray(leaf) for n, leaf in e.items()} for e in experts]
    start = {name: np.asarray(leaf) for name, leaf in base.items()}
    in_base = {name: leaf for name, leaf in arrays[0].items() if name not in beside}
    combining.check_alike([in_base], start)
    orders: aligning.Orders = {}
    if reference is not None:
        orders = aligning.orders(arrays, beside, reference=reference)
    out = {}
    for name, leaf in arrays[0].items():
        shape, side = list(leaf.shape), beside.get(name)
        if side is not None and side.is_linear and space != "parameters":
            shape[side.axis] = rank
        out[name] = np.zeros(shape, leaf.dtype)
    return ByLayer(arrays, start, beside, out, space, orders)
