"""Task arithmetic of experts with adapters: a weighted sum of what they add."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.merging import methods
from elm_jax.types import Params


def task_arithmetic(
    experts: Sequence[Params],
    *,
    weights: Sequence[float] | None,
    base: Params,
    scale: float,
    beside: Mapping[str, tuple[int, bool]],
) -> tuple[dict[str, Any], int]:
    """Returns the sum of experts' effects on a base, as one expert, exactly.

    The laws of `methods.merge` hold here too, bit for bit: the order of the experts
    (with their weights) does not matter; one expert merges to itself; weights
    [1, 0, 0] give the first. Scale 0 gives an expert of the first one's size that
    computes what the base computes.

    Args:
      experts: One or more trees with equal names, shapes and floating dtypes.
      weights: One finite number per expert; 1 each if None.
      base: What the leaves that are not in `beside` start from.
      scale: Factor on the weighted sum.
      beside: By the names of leaves of which experts' are put beside each other: the
        axis, and whether an expert's factor (scale times weight) belongs there.

    Returns:
      The expert, and how many experts lie beside each other in it: those with a
      factor of 0 are left out.

    Raises:
      ConfigError: As for `methods.merge`.
    """
    methods.check_alike(experts)
    flat = [trees.flatten(expert) for expert in experts]
    merged = methods.merge(
        "task_arithmetic",
        [_without(leaves, beside) for leaves in flat],
        weights=weights,
        base=base,
        scale=scale,
    )
    given = [1.0] * len(experts) if weights is None else [float(w) for w in weights]
    used = [
        (trees.fingerprint(expert), scale * weight, leaves)
        for expert, weight, leaves in zip(experts, given, flat, strict=True)
        if scale * weight != 0.0
    ]
    used.sort(key=lambda found: found[:2])
    parts = [(leaves, factor) for _, factor, leaves in used] or [(flat[0], 0.0)]
    added = {
        name: _concatenate(name, parts, axis=axis, scaled=scaled)
        for name, (axis, scaled) in beside.items()
    }
    return trees.join(merged, trees.unflatten(added)), len(parts)


def _without(leaves: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return trees.unflatten({n: leaf for n, leaf in leaves.items() if n not in names})


def _concatenate(
    name: str,
    parts: Sequence[tuple[Mapping[str, Any], float]],
    *,
    axis: int,
    scaled: bool,
) -> np.ndarray:
    arrays = []
    for leaves, factor in parts:
        array = np.asarray(leaves[name])
        if scaled and factor != 1.0:
            with np.errstate(over="ignore"):  # reported by name below
                array = (array.astype(np.float64) * factor).astype(array.dtype)
        arrays.append(array)
    joined = np.concatenate(arrays, axis)
    if not np.all(np.isfinite(joined)) or not all(math.isfinite(f) for _, f in parts):
        raise errors.ConfigError(
            found=f"the merged parameter {name} is not finite",
            expected="finite parameters and products within their dtype",
            do="Check the experts for NaN and the weights for size",
        )
    return joined
