"""How large the cores of LoRAs are that are merged, by the shapes of their matrices."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import deltas, products
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_sizes
from elm_jax.types import Side


class Cores(NamedTuple):
    """The cores of one adapter of several LoRAs; smaller where LoRAs share axes.

    Attributes:
      shape: Of all cores of one layer, [experts, p, q].
      rank: Of the LoRAs, the greatest.
      num_inputs: Rows of the products themselves.
      num_layers: In which the adapter is.
    """

    shape: tuple[int, int, int]
    rank: int
    num_inputs: int
    num_layers: int

    def held_bytes(self, method: MergeMethod) -> int:
        """Returns the bytes that merging one layer takes.

        Raises:
          ConfigError: The method needs all cores at once, and they do not fit.
        """
        has_all = _has_all(method)
        if has_all:
            products.check_all_fit(self.shape, self.rank)
        shape = self.shape[0], *self._core_shape(method)
        return products.held_bytes(shape, self.rank, has_all=has_all)

    def ranked_numbers(self, method: MergeMethod, copies: int) -> int:
        """Returns how many numbers are in memory while a method ranks all layers.

        Args:
          method: One that ranks all that an expert changes.
          copies: How many there are of all cores of one expert, beside what these are
            made of.
        """
        rows, columns = self._core_shape(method)
        has_all, count = _has_all(method), self.shape[0]
        source = rows * columns if has_all else self.rank * (rows + columns)
        return self.num_layers * (count * source + copies * rows * columns)

    def _core_shape(self, method: MergeMethod) -> tuple[int, int]:
        """Returns the shape of one; a part in the space of KnOTS has all rows."""
        _, rows, columns = self.shape
        return self.num_inputs if _has_all(method) else rows, columns


def of(
    experts: Sequence[Mapping[str, Leaf]], sides: Mapping[str, Side], count: int
) -> Cores:
    """Returns the cores of one adapter.

    Args:
      experts: The leaves of each, by name.
      sides: The two matrices of the adapter.
      count: How many of the experts are merged.
    """
    first, second = sorted(sides, key=lambda name: sides[name].takes_factor)
    ranks = [deltas.rank_of(leaves, sides) for leaves in experts]
    width = min(sum(ranks), count * max(ranks))
    *layers, inputs, _ = experts[0][first].shape
    outputs = experts[0][second].shape[-1]
    shape = count, min(width, inputs), min(width, outputs)
    num_layers = layers[0] if merge_sizes.is_stack(first) else 1
    return Cores(shape, max(ranks), inputs, num_layers)


def _has_all(method: MergeMethod) -> bool:
    return isinstance(method, deltas.DeltaMethod) and method.holds_cores
