"""Parameters on devices, brought there one by one in the dtype that they have there."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import config, precision
from elm_jax.partitioning import mesh as meshes
from elm_jax.types import Params


def frozen(
    params: Params, shape: config.T5Config, mesh: jax.sharding.Mesh, table: str
) -> dict[str, Any]:
    """Returns parameters that do not train, in the dtypes of `precision.frozen_dtype`.

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
    """
    return _placed(params, lambda n: precision.frozen_dtype(shape, n), mesh, table)


def trained(params: Params, mesh: jax.sharding.Mesh, table: str) -> dict[str, Any]:
    """Returns parameters that are to train, float32; else as `frozen`."""
    return _placed(params, lambda name: np.dtype(np.float32), mesh, table)


def _placed(
    params: Params,
    dtype_of: Callable[[str], np.dtype],
    mesh: jax.sharding.Mesh,
    table: str,
) -> dict[str, Any]:
    places = trees.flatten(meshes.shardings(params, mesh, table))
    placed = {}
    for name, leaf in trees.flatten(params).items():
        if isinstance(leaf, jax.Array):
            cast = leaf.astype(dtype_of(name))
        else:
            with np.errstate(over="ignore"):  # infinite, as on a device
                cast = np.asarray(leaf, dtype_of(name))
        # Waiting keeps the next one from being read while this one is still here.
        placed[name] = jax.block_until_ready(meshes.put(cast, places[name]))
        del cast
    return trees.unflatten(placed)
