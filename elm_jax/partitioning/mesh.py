"""Arranges devices in a mesh (data, fsdp, model), and places arrays on it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from elm_jax import errors, trees
from elm_jax.partitioning import rules
from elm_jax.types import Batch, Params

AXES = ("data", "fsdp", "model")


class Placement(NamedTuple):
    """How one parameter is placed, for the table of a plan."""

    name: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    bytes_per_device: int


def make_mesh(*, num_data: int = -1, num_fsdp: int = 1, num_model: int = 1) -> Mesh:
    """Returns all devices of all processes as a mesh [data, fsdp, model].

    Args:
      num_data: Shares of a batch among devices with the same parameters; -1 for as
        many as the others leave.
      num_fsdp: Shares of a batch and of the parameters; -1 for as many as
        `num_model` leaves.
      num_model: Shares of a parameter, on devices that divide the work on it.

    Raises:
      ConfigError: The product is not the number of devices, or there are other
        processes that this one has not joined.
    """
    check_joined()
    num_devices = jax.device_count()
    shape = mesh_shape(num_devices, num_data, num_fsdp, num_model)
    if math.prod(shape) != num_devices:
        raise errors.ConfigError(
            found=f"a mesh of num_data = {num_data} by num_fsdp = {num_fsdp} by"
            f" num_model = {num_model} for {num_devices} devices",
            expected="a product equal to the number of devices",
            do="Choose a num_fsdp and num_model that divide it, and num_data = -1",
        )
    # Auto: the compiler chooses the placement of intermediate values.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_joined() -> None:
    """Raises ConfigError if there are other processes that this one has not joined."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise errors.ConfigError(
            found=f"{jax.device_count()} devices of {jax.process_count()} processes"
            " that were not joined",
            expected="processes that can agree, and save together or apart",
            do="Add --multiprocess to the command, on every host",
        )


def mesh_shape(
    num_devices: int, num_data: int, num_fsdp: int, num_model: int
) -> tuple[int, int, int]:
    """Returns the sizes of a mesh's axes, with -1 replaced by the remaining devices.

    >>> mesh_shape(8, -1, 2, 2), mesh_shape(8, -1, -1, 2)
    ((2, 2, 2), (1, 4, 2))
    """
    num_others = max(1, num_devices // num_model)
    if num_fsdp == -1:
        num_data = 1 if num_data == -1 else num_data
        num_fsdp = max(1, num_others // num_data)
    if num_data == -1:
        num_data = max(1, num_others // num_fsdp)
    return num_data, num_fsdp, num_model


def plan(params: Params, mesh: Mesh | AbstractMesh, table: str) -> list[Placement]:
    """Returns the placement of each parameter; leaves need only `shape` and `dtype`.

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
            found=f"dimensions that the mesh does not divide: {'; '.join(uneven)}",
            expected="each dimension a multiple of its mesh axis",
            do="Choose a smaller num_model or num_fsdp, or the axis rules `data`",
        )
    return placements


def shardings(params: Params, mesh: Mesh | AbstractMesh, table: str) -> dict[str, Any]:
    """Returns the tree of shardings that `plan` decides."""
    return trees.unflatten(
        {p.name: NamedSharding(mesh, p.spec) for p in plan(params, mesh, table)}
    )


def place(params: Params, mesh: Mesh, table: str) -> Params:
    """Returns the parameters on their devices, by the axis rules of a name.

    Args:
      params: Arrays, with the same values in every process.
      mesh: A mesh that `make_mesh` made.
      table: Name of the axis rules.

    Raises:
      ConfigError: As `plan` does.
    """
    return jax.tree.map(put, dict(params), shardings(params, mesh, table))


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Returns an array on its devices; it has the same values in every process."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    # Each process hands its own devices their parts; nothing crosses the network.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def batch_shares(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts into which the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in rules.BATCH_AXES)


def check_batch_size(
    batch_size: int, mesh: Mesh | AbstractMesh, *, num_parts: int = 1
) -> None:
    """Raises ConfigError unless the mesh divides a batch; compiles nothing.

    Args:
      batch_size: Rows over all processes.
      mesh: Real, or a plan of one.
      num_parts: Of the batch, each of which is divided.
    """
    shares = num_parts * batch_shares(mesh)
    if batch_size % shares:
        parts = f" in {num_parts} parts" if num_parts > 1 else ""
        raise errors.ConfigError(
            found=f"a batch of {batch_size} rows{parts} for {batch_shares(mesh)}"
            " devices that split it",
            expected=f"a multiple of {shares}",
            do=f"Set BATCH_SIZE to {-(-batch_size // shares) * shares}, or split"
            " the parameters over more devices and the batch over fewer"
            " (num_model)",
        )


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """Keeps the rows of activations split like those of batches, in a compiled program.

    Without it, the compiler may gather the batch instead of the parameters that `fsdp`
    splits.

    Attributes:
      mesh: A mesh that `make_mesh` made.
    """

    mesh: Mesh

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [rows, ...] split over rows; whole if the mesh does not divide them.

        Other axes are whole on every device, as in T5X with
        activation_partitioning_dims = 1.
        """
        if self.mesh.size == 1 or x.shape[0] % batch_shares(self.mesh):
            return x
        sharding = NamedSharding(self.mesh, PartitionSpec(rules.BATCH_AXES))
        return jax.lax.with_sharding_constraint(x, sharding)


def process_part(mesh: Mesh) -> tuple[int, int]:
    """Returns `(index, count)`: which equal part of a batch's rows this process makes.

    Processes whose devices hold the same rows, because they share the parameters
    computed on them, get the same part. (0, 1) means all rows: for a single process,
    and if the rows of this process's devices are not consecutive.
    """
    shares = batch_shares(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(rules.BATCH_AXES))
    slices = sharding.addressable_devices_indices_map((shares,)).values()
    held = sorted({index[0].indices(shares)[0] for index in slices if index})
    first_share, size = held[0], len(held)
    if held[-1] - first_share + 1 != size or shares % size or first_share % size:
        return 0, 1
    return first_share // size, shares // size


def shard_batch(
    batch: Batch, mesh: Mesh, *, part: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Returns the batch split over the axes data and fsdp of the mesh.

    Args:
      batch: Arrays with rows on axis 0: those of this process.
      mesh: A mesh that `make_mesh` made.
      part: Which part of all rows these are, `(index, count)`; None for
        `process_part(mesh)`.

    Raises:
      ConfigError: The mesh does not divide the rows.
    """
    index, count = process_part(mesh) if part is None else part
    sharding = NamedSharding(mesh, PartitionSpec(rules.BATCH_AXES))
    placed = {}
    for name, leaf in batch.items():
        rows = np.asarray(leaf)
        check_batch_size(len(rows) * count, mesh)
        placed[name] = _from_rows(rows, sharding, index * len(rows), count)
    return placed


def _from_rows(
    rows: np.ndarray, sharding: NamedSharding, first_row: int, count: int
) -> jax.Array:
    """Returns a global array of which this process has `rows`, from `first_row` on."""
    shape = (len(rows) * count, *rows.shape[1:])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        on_rows, *on_rest = index or (slice(None),)
        start, stop, _ = on_rows.indices(shape[0])
        if not first_row <= start <= stop <= first_row + len(rows):
            raise errors.ElmError(
                found=f"rows {start} to {stop} wanted by a device of a process"
                f" that has {first_row} to {first_row + len(rows)}",
                expected="rows that the process has",
                do="Report this: the batch and the mesh disagree",
            )
        return rows[(slice(start - first_row, stop - first_row), *on_rest)]

    return jax.make_array_from_callback(shape, sharding, part)


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that arrays take on the fullest device of this process."""
    num_bytes: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            num_bytes[shard.device] = num_bytes.get(shard.device, 0) + shard.data.nbytes
    return max(num_bytes.values(), default=0)


def planned_bytes(tree: Any) -> int:
    """Returns the bytes per device of shapes with shardings, real or planned."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def with_shardings(params: Params, places: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters' shapes, each with its sharding; holds no values."""

    def describe(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, dict(params), dict(places))
