"""Parameters on devices, brought there one by one in the dtype that they have there."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import config, precision
from elm_jax.partitioning import mesh as meshes
from elm_jax.types import Params

_HeldFn = Callable[[str, Any], Mapping[str, Any]]


def frozen(
    params: Params, shape: config.T5Config, mesh: jax.sharding.Mesh, table: str
) -> dict[str, Any]:
    """Returns parameters that do not train, as `precision.held` has them.

    The host holds no more than one of them beside `params`, which may be on disk
    (`Base.open`), and each device its parts of them in their final dtypes.

    Args:
      params: Some or all of a model's.
      shape: The model.
      mesh: The devices.
      table: Name of the axis rules.

    Raises:
      CheckpointError: A tensor on disk is not as it was saved.
      ConfigError: The mesh does not divide a parameter.
      MissingExtraError: They are to be int8, and qwix is not installed.
    """
    return _placed(params, lambda n, a: precision.held(shape, n, a), mesh, table)


def trained(params: Params, mesh: jax.sharding.Mesh, table: str) -> dict[str, Any]:
    """Returns parameters that are to train, float32; else as `frozen`."""
    float32 = np.dtype(np.float32)
    return _placed(params, lambda n, a: {n: precision.cast(a, float32)}, mesh, table)


def _placed(
    params: Params, held: _HeldFn, mesh: jax.sharding.Mesh, table: str
) -> dict[str, Any]:
    leaves = trees.flatten(params)
    shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in leaves.items()}
    planned = {n: s for name in shapes for n, s in held(name, shapes[name]).items()}
    places = trees.flatten(meshes.shardings(trees.unflatten(planned), mesh, table))
    placed = {}
    for name, leaf in leaves.items():
        parts = dict(held(name, leaf))
        for part in [*parts]:
            # Waiting keeps the next one from being read while this one is still here.
            array = meshes.put(parts.pop(part), places[part])
            placed[part] = jax.block_until_ready(array)
    return trees.unflatten(placed)
