"""Devices as a mesh of data and model parallelism; arrays put in their places."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from elm_jax import errors, trees
from elm_jax.partitioning import rules
from elm_jax.types import Batch, Params


class Placement(NamedTuple):
    """Where one parameter lies, for a table of the plan."""

    name: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    bytes_per_device: int


def make_mesh(*, num_data: int = -1, num_model: int = 1) -> Mesh:
    """Returns all devices as a mesh [data, model].

    Args:
      num_data: Shares of a batch; -1 for as many as `num_model` leaves.
      num_model: Shares of a parameter.

    Raises:
      ConfigError: The product is not the number of devices.
    """
    num_devices = jax.device_count()
    shape = (num_devices // num_model if num_data == -1 else num_data, num_model)
    if math.prod(shape) != num_devices:
        raise errors.ConfigError(
            errors.explain(
                found=f"a mesh of num_data = {num_data} by num_model = {num_model} for"
                f" {num_devices} devices",
                expected="a product equal to the number of devices",
                do="Choose a num_model that divides it, and num_data = -1",
            )
        )
    # Auto: the compiler derives the placement of what lies between the arguments.
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("data", "model"), axis_types=types)


def plan(params: Params, mesh: Mesh | AbstractMesh, table: str) -> list[Placement]:
    """Returns where each parameter is to lie; leaves need only `shape` and `dtype`.

    Raises:
      ConfigError: A name has no rule, or an axis of the mesh does not divide a
        dimension.
    """
    axes = rules.axis_table(table)
    placements, uneven = [], []
    for name, leaf in trees.flatten(params).items():
        shape = tuple(leaf.shape)
        spec = rules.partition_spec(name, shape, axes)
        shares = [1 if axis is None else mesh.shape[axis] for axis in spec]
        if any(size % share for size, share in zip(shape, shares, strict=True)):
            uneven.append(f"{name} {shape} by {tuple(shares)}")
        num_bytes = math.prod(shape) * np.dtype(leaf.dtype).itemsize
        share_bytes = num_bytes // math.prod(shares)
        placements.append(Placement(name, shape, spec, share_bytes))
    if uneven:
        raise errors.ConfigError(
            errors.explain(
                found=f"dimensions that the mesh does not divide: {'; '.join(uneven)}",
                expected="each dimension a multiple of its mesh axis",
                do="Choose a smaller num_model, or the axis rules `data`",
            )
        )
    return placements


def shardings(params: Params, mesh: Mesh, table: str) -> Params:
    """Returns the tree of shardings that `plan` decides."""
    return trees.unflatten(
        {p.name: NamedSharding(mesh, p.spec) for p in plan(params, mesh, table)}
    )


def place(params: Params, mesh: Mesh, table: str) -> Params:
    """Returns the parameters on their devices, by the axis rules of a name.

    Raises:
      ConfigError: As `plan` does.
    """
    return jax.device_put(params, shardings(params, mesh, table))


def shard_batch(batch: Batch, mesh: Mesh) -> dict[str, Any]:
    """Returns the batch split over the data axis of the mesh, whole along others.

    Args:
      batch: Arrays with the rows of this process on axis 0.
      mesh: From `make_mesh`.

    Raises:
      ConfigError: The data axis does not divide the rows.
    """
    shares = max(1, mesh.shape["data"] // jax.process_count())
    sizes = sorted({len(leaf) for leaf in batch.values()})
    if any(size % shares for size in sizes):
        raise errors.ConfigError(
            errors.explain(
                found=f"a batch of {sizes} rows for {shares} shares per process",
                expected=f"a multiple of {shares}",
                do="Choose another BATCH_SIZE, or a mesh with a smaller num_data",
            )
        )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        for name, leaf in batch.items()
    }
