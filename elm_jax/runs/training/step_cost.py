"""What a training costs, by shape alone: bytes per device and operations per step."""

import dataclasses
import math

import jax
import optax

from elm_jax import trees
from elm_jax.model import cost, precision, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.peft import expert_parts
from elm_jax.runs.placement import Devices
from elm_jax.runs.run import Plan
from elm_jax.training import state as states
from elm_jax.types import Params


def parameter_bytes(
    model: t5.T5,
    devices: Devices,
    *,
    tx: optax.GradientTransformation,
    trainable: Params,
    frozen: Params,
) -> dict[str, int]:
    """Returns what parameters and optimiser keep on one device, by use; exact.

    Args:
      model: The network.
      devices: The devices that train.
      tx: The optimiser.
      trainable: Leaves with `shape` and `dtype`.
      frozen: Leaves with `shape` and `dtype`, kept in the dtype that they are computed
        in.

    Raises:
      ConfigError: An axis of the mesh does not divide a parameter.
    """
    shardings = meshes.shardings(trainable, devices.mesh, devices.axis_rules)
    state = states.plan_state(meshes.with_shardings(trainable, shardings), tx)
    frozen = precision.in_compute_dtype(model.config, frozen)
    placements = meshes.plan(frozen, devices.mesh, devices.axis_rules)
    return {
        "frozen parameters": sum(
            placement.bytes_per_device for placement in placements
        ),
        "trained parameters": meshes.planned_bytes(state.params),
        "optimiser": meshes.planned_bytes(state.opt_state),
    }


def bytes_per_device(
    model: t5.T5,
    batch: cost.BatchShape,
    devices: Devices,
    *,
    tx: optax.GradientTransformation,
    trainable: Params,
    frozen: Params,
    platform: str = "",
    num_parts: int = 1,
) -> dict[str, int]:
    """Returns what one training step keeps on one device, by use.

    Parameters and optimiser are those of `parameter_bytes`, activations an estimate.

    Args:
      model: The network.
      batch: Over all devices.
      devices: The devices that train.
      tx: The optimiser.
      trainable: Leaves with `shape` and `dtype`; they have gradients, too.
      frozen: Leaves without gradients, kept in the dtype that they are computed in.
      platform: Of the devices, as JAX calls it; "" for any but a TPU.
      num_parts: Of the batch, computed one after another; their gradients are summed
        beside those of the part at work.

    Raises:
      ConfigError: An axis of the mesh does not divide a parameter.
    """
    of_parameters = parameter_bytes(
        model, devices, tx=tx, trainable=trainable, frozen=frozen
    )
    trained = of_parameters["trained parameters"]
    shares = num_parts * meshes.batch_shares(devices.mesh)
    rows = math.ceil(batch.batch_size / shares)
    is_shared = rules.axis_table(devices.axis_rules)["mlp"] == "model"
    return {
        "frozen parameters": of_parameters["frozen parameters"],
        "trained parameters": trained,
        "gradients": trained * (2 if num_parts > 1 else 1),
        "optimiser": of_parameters["optimiser"],
        "activations": cost.activation_bytes(
            model,
            dataclasses.replace(batch, batch_size=rows),
            trained=trees.flatten(trainable),
            num_fsdp=devices.num_fsdp,
            num_model=devices.num_model if is_shared else 1,
            platform=platform,
        ),
    }


def describe(
    model: t5.T5,
    batch: cost.BatchShape,
    devices: Devices,
    *,
    trainable_pattern: str,
    tx: optax.GradientTransformation,
    num_parts: int = 1,
) -> Plan:
    """Returns the rows of a plan that tell what a step costs.

    Args:
      model: The network.
      batch: Over all devices.
      devices: The devices that train.
      trainable_pattern: Of the names of the parameters that train.
      tx: The optimiser.
      num_parts: Of the batch, computed one after another.

    Raises:
      ConfigError: An axis of the mesh does not divide a parameter, or the devices do
        not divide a part of the batch.
    """
    meshes.check_batch_size(batch.batch_size, devices.mesh, num_parts=num_parts)
    shapes = t5.param_shapes(model)
    trainable, frozen = expert_parts.split(shapes, trainable_pattern)
    parts = bytes_per_device(
        model,
        batch,
        devices,
        tx=tx,
        trainable=trainable,
        frozen=frozen,
        platform=jax.default_backend(),
        num_parts=num_parts,
    )
    flops = cost.train_flops(model.config, batch, trainable=trainable, frozen=frozen)
    tokens = batch.batch_size * (batch.inputs_length + batch.targets_length)
    num_local = jax.device_count()
    machine_text = (
        "" if devices.count <= num_local else f"; this machine has {num_local}"
    )
    used = [f"{name} {_gib(size)}" for name, size in parts.items() if size]
    return {
        "parameters": f"{trees.count_params(shapes):,}",
        "trained per expert": f"{trees.count_params(trainable):,}",
        "devices": f"{devices}{machine_text}",
        "bytes per device, about": f"{_gib(sum(parts.values()))}: {', '.join(used)}",
        "tokens per step, at most": f"{tokens:,}",
        "FLOPs per step, at most": f"{flops:.3g}"
        f" ({flops / devices.count:.3g} per device)",
    }


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
