"""Sums of what experts change as functions of their weights, which have gradients."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.merging import combining
from elm_jax.merging.method import Beside
from elm_jax.types import LAYERS, Params, Side

ALL = ""
"""The group of what is in no other."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MergedFn:
    """By group of layers, weights [experts], to the parameters that they give.

    It may be an argument of a compiled function, which then serves experts of other
    values, too, and holds no copy of them.

    Attributes:
      leaves: What each expert changes, or its adapters, float32 [experts, ...].
      start: What is added to changes, float32.
      sides: Adapters that are put beside each other, and how.
    """

    leaves: dict[str, jax.Array]
    start: dict[str, jax.Array]
    sides: tuple[tuple[str, Side], ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Returns parameters.

        Args:
          weights: Of a group of `layer_groups`, or, with `ALL`, of all that is in no
            group that is given.
        """
        sides, params = dict(self.sides), {}
        for name, stacked in self.leaves.items():
            of_each = _spread(name, stacked, weights)
            side = sides.get(name)
            if side is None:
                change = jnp.sum(of_each * stacked, axis=0)
                params[name] = self.start[name] + change
                continue
            scaled = of_each * stacked if side.takes_factor else stacked
            params[name] = jnp.concatenate([*scaled], axis=side.axis)
        return trees.unflatten(params)


def layer_groups(experts: Params) -> list[str]:
    """Returns the groups of all layers of stacks, such as `encoder/layers_0/`.

    Args:
      experts: The parameters of one of them.
    """
    groups: dict[str, None] = {}
    for name, leaf in trees.flatten(experts).items():
        head, stacked, _ = name.partition(f"/{LAYERS}/")
        for layer in range(leaf.shape[0] if stacked else 0):
            groups[f"{head}/{LAYERS}_{layer}/"] = None
    return [*groups]


def make_merged_fn(experts: Sequence[Params], base: Params, beside: Beside) -> MergedFn:
    """Returns what task arithmetic gives for weights: `base + sum_t w_t (x_t - base)`.

    Adapters of all experts are put beside each other, also those of weight 0. In
    float32, so that it differs from `TaskArithmetic` by rounding.

    Args:
      experts: One or more, of the same shapes.
      base: What the experts started from, without the leaves in `beside`.
      beside: Leaves of adapters, and how each lies beside those of other experts.
    """
    combining.check_alike(experts)
    flat = [trees.flatten(expert) for expert in experts]
    flat_base = trees.flatten(base)
    leaves: dict[str, jax.Array] = {}
    start: dict[str, jax.Array] = {}
    for name in flat[0]:
        several = [np.asarray(expert[name], np.float32) for expert in flat]
        if name not in beside:
            origin = np.asarray(flat_base[name], np.float32)
            several = [leaf - origin for leaf in several]
            start[name] = jnp.asarray(origin)
        leaves[name] = jnp.asarray(np.stack(several))

    return MergedFn(leaves, start, tuple(beside.items()))


def _spread(name: str, stacked: Any, weights: Mapping[str, Any]) -> jax.Array:
    """Returns weights in a shape that multiplies [experts, ...]."""
    head, is_stack, _ = name.partition(f"/{LAYERS}/")
    if not is_stack:
        return weights[ALL].reshape(-1, *(1,) * (stacked.ndim - 1))
    layers = [
        weights.get(f"{head}/{LAYERS}_{layer}/", weights[ALL])
        for layer in range(stacked.shape[1])
    ]
    # [experts, layers, 1 ...]
    return jnp.stack(layers, axis=1).reshape(
        *stacked.shape[:2], *(1,) * (stacked.ndim - 2)
    )
