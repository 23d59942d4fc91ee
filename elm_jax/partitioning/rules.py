"""How parameters are split: from names to logical axes to axes of the mesh.

Reference:
  google-research/t5x, t5x/partitioning.py, for the names of the axes and for the
  table `data_model`.
"""

import re
from collections.abc import Mapping

from jax.sharding import PartitionSpec

from elm_jax import errors
from elm_jax.peft import adapters
from elm_jax.types import LAYERS

# Patterns are tried in order on a parameter's name, without the key of the stack. The
# first match gives the logical axes; parameters of a stack get `layers` in front.
_PARAMETERS = (
    (r"token_embedder/embedding$", ("vocab", "embed")),
    (r"relpos_bias/rel_embedding$", ("heads", "relpos_buckets")),
    (r"_norm/scale$", ("embed",)),
    # Of a mixture whose norms are routed; a router has a vector or a number of each.
    (r"_norm/experts/scale$", ("experts", "embed")),
    (r"_norm/router/\w+$", ("experts", "adapter")),
    (r"_norm/router/\w+$", ("experts",)),
    (r"attention/(query|key|value)/kernel$", ("embed", "joined_kv")),
    (r"attention/out/kernel$", ("joined_kv", "embed")),
    (r"mlp/wi(_\d+)?/kernel$", ("embed", "mlp")),
    (r"mlp/wo/kernel$", ("mlp", "embed")),
    # Scales of the outputs of matrices that are held as int8.
    (r"attention/(query|key|value)/kernel_scale$", ("joined_kv",)),
    (r"(attention/out|mlp/wo)/kernel_scale$", ("embed",)),
    (r"mlp/wi(_\d+)?/kernel_scale$", ("mlp",)),
    (r"decoder/logits_dense/kernel$", ("embed", "vocab")),
)
# What a projection or sub-layer reads and gives, by the place of its adapter.
_ADAPTED = (
    (r"attention/(query|key|value)$", ("embed", "joined_kv")),
    (r"attention/out$", ("joined_kv", "embed")),
    (r"mlp/wi(_\d+)?$", ("embed", "mlp")),
    (r"mlp/hidden$", ("mlp", "mlp")),
    (r"mlp/wo$", ("mlp", "embed")),
    (r"(attention|mlp)$", ("embed", "embed")),
)

MeshAxis = str | tuple[str, ...] | None
"""What splits a dimension: one axis of the mesh, several, or none."""

BATCH_AXES = ("data", "fsdp")

_REPLICATED: Mapping[str, MeshAxis] = {
    "batch": BATCH_AXES,
    "layers": None,
    "vocab": None,
    "embed": None,
    "heads": None,
    "joined_kv": None,
    "mlp": None,
    "relpos_buckets": None,
    "adapter": None,
    "experts": None,
}
_BY_WIDTH: Mapping[str, MeshAxis] = {"embed": "fsdp"}
_BY_MODEL: Mapping[str, MeshAxis] = {
    "vocab": "model",
    "heads": "model",
    "joined_kv": "model",
    "mlp": "model",
}

# Mesh axis of each logical axis; None keeps it whole on every device. `fsdp` and
# `fsdp_model` are what T5X gives for parameter_partitioning_dims = 2: each device
# keeps a part of every matrix and gathers the rest when it computes with it.
TABLES: Mapping[str, Mapping[str, MeshAxis]] = {
    "data": _REPLICATED,
    "fsdp": {**_REPLICATED, **_BY_WIDTH},
    "data_model": {**_REPLICATED, **_BY_MODEL},
    "fsdp_model": {**_REPLICATED, **_BY_WIDTH, **_BY_MODEL},
}


def axis_table(name: str) -> Mapping[str, MeshAxis]:
    """Returns a table of axis rules by its name.

    Raises:
      ConfigError: There is no such table.
    """
    if name not in TABLES:
        raise errors.ConfigError(
            found=f"axis rules {name!r}",
            expected=f"one of {', '.join(TABLES)}",
            do=errors.did_you_mean(name, TABLES),
        )
    return TABLES[name]


def check_axes(name: str, *, num_fsdp: int, num_model: int) -> None:
    """Raises ConfigError if devices would share parameters that no rule splits.

    Args:
      name: Of the table.
      num_fsdp: Devices along the mesh's axis `fsdp`; -1 for all that are left.
      num_model: Devices along its axis `model`.
    """
    sizes = {"fsdp": num_fsdp, "model": num_model}
    unused = [
        axis
        for axis, size in sizes.items()
        if size != 1 and axis not in _split_by(axis_table(name))
    ]
    if unused:
        counts = " and ".join(f"num_{axis} = {sizes[axis]}" for axis in unused)
        splitting = [n for n in TABLES if set(unused) <= _split_by(TABLES[n])]
        raise errors.ConfigError(
            found=f"{counts} with axis rules {name!r}, which keep parameters whole"
            " there",
            expected="1, or rules that split parameters",
            do=f"Set axis_rules to {' or '.join(map(repr, splitting))}, or the number"
            " to 1",
        )


def _split_by(table: Mapping[str, MeshAxis]) -> set[MeshAxis]:
    """Returns the axes of the mesh that split some parameter."""
    return {table[axis] for axis in (*_BY_WIDTH, *_BY_MODEL)} - {None}


def logical_axes(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the logical axis of each dimension of a parameter.

    >>> logical_axes("encoder/layers/mlp/wo/kernel", (24, 5120, 2048))
    ('layers', 'mlp', 'embed')

    Raises:
      ConfigError: No rule matches the name, or the one that does has another rank.
    """
    stack = (LAYERS,) if LAYERS in name.split("/") else ()
    adapted = _adapter_axes(name, len(shape) - len(stack))
    if len(stack + adapted) == len(shape):
        return stack + adapted
    for pattern, axes in _PARAMETERS:
        if re.search(pattern, name) and len(stack + axes) == len(shape):
            return stack + axes
    patterns = {pattern: pattern for pattern, _ in _PARAMETERS}
    raise errors.ConfigError(
        found=f"parameter {name} {tuple(shape)}, which no rule places",
        expected="a parameter of the model, or a rule for it",
        do=f"Add its pattern to the parameters' rules. "
        f"{errors.did_you_mean(name, patterns, shown=3)}",
    )


def _adapter_axes(name: str, num_axes: int) -> tuple[str, ...]:
    """Returns the logical axes of an adapter's parameter; () of any other."""
    path, is_adapter, part = name.partition("_adapter/")
    axes = adapters.axes_of(part, num_axes)
    ends = next((ends for p, ends in _ADAPTED if re.search(p, path)), None)
    if not is_adapter or ends is None:
        return ()
    axis_of = {"inputs": ends[0], "outputs": ends[1]}
    return tuple(axis_of.get(axis, axis) for axis in axes)


def partition_spec(
    name: str, shape: tuple[int, ...], table: Mapping[str, MeshAxis]
) -> PartitionSpec:
    """Returns which mesh axis splits each dimension of a parameter.

    >>> spec = partition_spec("encoder/encoder_norm/scale", (8,), TABLES["data"])
    >>> spec == PartitionSpec(None)
    True
    """
    return PartitionSpec(*(table[axis] for axis in logical_axes(name, shape)))
