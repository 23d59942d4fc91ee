"""Adapters that are merged a layer at a time, their parameters together.

What a method makes of one parameter of an adapter may depend on the others, such as the
order of hidden units. So a place, an adapter in all layers, is merged when the first of
its parameters is read, and the others are kept until they are.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from elm_jax import errors, trees
from elm_jax.checkpoints import leaf_parts
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import effects
from elm_jax.types import LAYERS

AHEAD_BYTES = 1 << 27
"""Of all experts' parts of a layer that are read while the one before is merged."""


def takes(method: MergeMethod) -> bool:
    """Returns whether a method merges adapters a layer at a time."""
    return method.unit == "place" or isinstance(method, task_arithmetic.TaskArithmetic)


@dataclasses.dataclass(frozen=True)
class Place:
    """The parameters of one adapter in all layers, of several experts.

    Attributes:
      method: How they are merged; one that `takes` adapters.
      likes: What has the shapes of the merged parameters, by name.
      experts: The leaves of each, by name.
      marks: Texts by which experts are ordered, such as their fingerprints.
      statistics: What was measured with each, by the same names; empty for nothing.
      facts: What the method tells of the merge; filled when parameters are read.
    """

    method: MergeMethod
    likes: Mapping[str, Leaf]
    experts: Sequence[Mapping[str, Leaf]]
    marks: Sequence[str]
    statistics: Sequence[Mapping[str, Leaf]]
    facts: dict[str, float]
    _merged: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def leaf(self, name: str, rows: int) -> Leaf:
        """Returns a merged parameter.

        Args:
          name: One of `likes`.
          rows: Of its parts.
        """
        like = self.likes[name]
        blocks = functools.partial(self._blocks, name, rows)
        return Leaf(like.shape, like.dtype, rows, blocks)

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        if name not in self._merged:
            self._merged.update(self._merge())
        leaf = self._merged.pop(name)
        if name == max(self.likes):  # a merge that goes on has not asked for the first
            self._merged.clear()
        for start in range(0, len(leaf), rows):
            yield leaf[start : start + rows]

    def _merge(self) -> dict[str, np.ndarray]:
        out = {name: np.empty(x.shape, x.dtype) for name, x in self.likes.items()}
        measured = [
            n
            for n in self.likes
            if any(n in statistic for statistic in self.statistics)
        ]
        groups = [
            *([leaves[name] for leaves in self.experts] for name in self.likes),
            *([leaves[name] for leaves in self.statistics] for name in measured),
        ]
        read = layers_of(groups)
        every = [leaf for leaves in groups for leaf in leaves]
        held = sum(leaf.rows * leaf_parts.row_bytes(leaf) for leaf in every)
        for number, arrays in enumerate(
            leaf_parts.ahead(read) if held <= AHEAD_BYTES else read
        ):
            layer_names = {
                name: name.replace(f"/{LAYERS}/", f"/{LAYERS}_{number}/")
                for name in self.likes
            }
            layers, statistics = (
                [
                    trees.unflatten(
                        {
                            layer_names[n]: a[place]
                            for n, a in zip(names, several, strict=True)
                        }
                    )
                    for place in range(len(of_each))
                ]
                for names, several, of_each in (
                    ([*layer_names], arrays[: len(layer_names)], self.experts),
                    (measured, arrays[len(layer_names) :], self.statistics),
                )
            )
            merged = self.method.merge(
                layers,
                base={} if self.method.needs_base else None,
                beside=effects.beside(layers[0]),
                marks=self.marks,
                statistics=statistics,
            )
            del arrays, layers, statistics
            self.facts.update(merged.facts)
            merged_layers = trees.flatten(merged.params)
            for name, layer in layer_names.items():
                out[name][number] = merged_layers[layer]
        return out


def layers_of(groups: Sequence[Sequence[Leaf]]) -> Iterator[list[np.ndarray]]:
    """Yields arrays [experts, ...] of a layer after another, one for each group.

    Parts of hundreds of experts are copied into one array as they are read: allocators
    give great arrays back to the system, and keep many small ones.

    Args:
      groups: Leaves of equal shapes, one of each expert; all with as many layers.

    Raises:
      CheckpointError: A leaf has more layers, or fewer.
    """
    parts = [leaf_parts.cut(leaf, 1) for leaves in groups for leaf in leaves]
    places = [
        (g, place) for g, leaves in enumerate(groups) for place in range(len(leaves))
    ]
    for _ in range(groups[0][0].shape[0]):
        arrays = [np.empty((len(x), *x[0].shape[1:]), x[0].dtype) for x in groups]
        blocks = leaf_parts.next_of_each(parts)
        for (group, place), block in zip(places, blocks, strict=True):
            _check_is_there(block is not None)
            arrays[group][place] = block[0]
            del block
        yield arrays
        del arrays
    for block in leaf_parts.next_of_each(parts):  # each compares itself now
        _check_is_there(block is None)


def _check_is_there(is_there: bool) -> None:  # noqa: FBT001
    if not is_there:
        raise errors.CheckpointError(
            found="parameters of adapters with other numbers of layers",
            expected="as many layers of each",
            do="Look for an expert whose folder was changed, and save it again",
        )
