"""Adapters that are merged a layer at a time, their parameters together.

What a method makes of one parameter of an adapter may depend on the others, such as the
order of hidden units. So a place, an adapter in all layers, is merged when the first of
its parameters is read, and the others are kept until they are.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import leaf_parts
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import aligning, deltas, task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import adapters, effects
from elm_jax.types import LAYERS, Side

AHEAD_BYTES = 1 << 27
"""Of all experts' parts of a layer that are read while the one before is merged."""


def takes(method: MergeMethod, spec: adapters.AdapterSpec) -> bool:
    """Returns whether a method merges adapters of a kind a layer at a time.

    Others are widened as a whole (LoRAs in their cores), or not by layers.
    """
    if isinstance(method, task_arithmetic.TaskArithmetic):
        return True
    by_layer = isinstance(method, deltas.DeltaMethod | aligning.AlignedAverage)
    return by_layer and method.unit == "place" and not spec.is_linear


def num_beside(method: MergeMethod, num_experts: int) -> int:
    """Returns how many experts' adapters lie beside each other in the result."""
    if not isinstance(method, task_arithmetic.TaskArithmetic):
        return 1
    weights = method.weights or (1.0,) * num_experts
    return max(1, sum(method.scale * weight != 0.0 for weight in weights))


def widened(like: Leaf, side: Side, times: int) -> Leaf:
    """Returns a leaf of the shape of so many beside each other; it gives no values."""
    shape = [*like.shape]
    shape[side.axis] *= times
    return like._replace(shape=tuple(shape))


@dataclasses.dataclass(frozen=True)
class Place:
    """The parameters of one adapter in all layers, of several experts.

    Attributes:
      method: How they are merged; one that `takes` the kind.
      names: Of the parameters.
      experts: The leaves of each, by name.
      marks: As for `MergeMethod.merge`.
    """

    method: MergeMethod
    names: Sequence[str]
    experts: Sequence[Mapping[str, Leaf]]
    marks: Sequence[str]
    _made: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def leaf(self, name: str, rows: int) -> Leaf:
        """Returns a merged parameter.

        Args:
          name: One of `names`.
          rows: Of its parts.
        """
        like = self.experts[0][name]
        blocks = functools.partial(self._blocks, name, rows)
        return Leaf(like.shape, like.dtype, rows, blocks)

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        if name not in self._made:
            self._made.update(self._merge())
        made = self._made.pop(name)
        for start in range(0, len(made), rows):
            yield made[start : start + rows]

    def _merge(self) -> dict[str, np.ndarray]:
        likes = {name: self.experts[0][name] for name in self.names}
        out = {name: np.empty(x.shape, x.dtype) for name, x in likes.items()}
        every = [leaves[name] for leaves in self.experts for name in self.names]
        steps = leaf_parts.steps(every, 1)
        held = sum(leaf.rows * leaf_parts.row_bytes(leaf) for leaf in every)
        for number, blocks in enumerate(
            leaf_parts.ahead(steps) if held <= AHEAD_BYTES else steps
        ):
            of = [n.replace(f"/{LAYERS}/", f"/{LAYERS}_{number}/") for n in self.names]
            count = len(of)
            layers = [
                trees.unflatten({n: b[0] for n, b in zip(of, part, strict=True)})
                for part in (
                    blocks[at : at + count] for at in range(0, len(blocks), count)
                )
            ]
            del blocks
            merged = self.method.merge(
                layers,
                base={} if self.method.needs_base else None,
                beside=effects.beside(layers[0]),
                marks=self.marks,
            )
            found = trees.flatten(merged.params)
            for name, layer in zip(self.names, of, strict=True):
                out[name][number] = found[layer]
        return out
