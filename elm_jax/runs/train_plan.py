"""What a training costs, by shape alone: bytes per device and operations per step."""

import dataclasses
import math

import jax
import optax
from jax.sharding import AbstractMesh

from elm_jax import trees
from elm_jax.data import tasks
from elm_jax.model import config, cost, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs.run import Plan
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """How a batch and a model are laid over devices, which need not be here.

    Attributes:
      num_data: Shares of a batch.
      num_model: Shares of a parameter.
      axis_rules: Name of the table that tells which parameters are shared.
    """

    num_data: int
    num_model: int
    axis_rules: str

    @property
    def count(self) -> int:
        """How many devices."""
        return self.num_data * self.num_model

    @property
    def mesh(self) -> AbstractMesh:
        """The devices as a mesh that no hardware stands behind."""
        return AbstractMesh((self.num_data, self.num_model), ("data", "model"))


def batch_shape(batch_size: int, features: tasks.Features) -> cost.Shape:
    """Returns a batch of the longest inputs and targets."""
    return cost.Shape(
        batch_size=batch_size,
        inputs_length=features.inputs_length,
        targets_length=features.targets_length,
    )


def choose_devices(num_model: int, axis_rules: str) -> Devices:
    """Returns the devices of this machine, or one model's if there are too few."""
    num_data = max(1, jax.device_count() // num_model)
    return Devices(num_data=num_data, num_model=num_model, axis_rules=axis_rules)


def bytes_per_device(
    shape: config.T5Config,
    batch: cost.Shape,
    devices: Devices,
    *,
    tx: optax.GradientTransformation,
    trainable: Params,
    frozen: Params,
) -> dict[str, int]:
    """Returns an estimate of what one training step keeps on one device, by use.

    Args:
      shape: The model.
      batch: Over all devices.
      devices: Where.
      tx: The optimiser.
      trainable: Leaves with `shape` and `dtype`; they have gradients, too.
      frozen: Likewise, but without.

    Raises:
      ConfigError: An axis of the mesh does not divide a parameter.
    """

    def count(tree: Params) -> int:
        placements = meshes.plan(tree, devices.mesh, devices.axis_rules)
        return sum(placement.bytes_per_device for placement in placements)

    trained, whole = count(trainable), max(1, trees.count_bytes(trainable))
    state = jax.tree.leaves(jax.eval_shape(tx.init, trainable))
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    rows = math.ceil(batch.batch_size / devices.num_data)
    is_shared = rules.axis_table(devices.axis_rules)["mlp"] == "model"
    return {
        "frozen parameters": count(frozen),
        "trained parameters": trained,
        "gradients": trained,
        # Its arrays lie where their parameters do.
        "optimiser": state_bytes * trained // whole,
        "activations": cost.activation_bytes(
            shape,
            dataclasses.replace(batch, batch_size=rows),
            num_model=devices.num_model if is_shared else 1,
        ),
    }


def describe(
    model: t5.T5,
    batch: cost.Shape,
    devices: Devices,
    *,
    pattern: str,
    tx: optax.GradientTransformation,
) -> Plan:
    """Returns the rows of a plan that tell what a step costs.

    Args:
      model: The network.
      batch: Over all devices.
      devices: Where.
      pattern: Of the names of the parameters that train.
      tx: The optimiser.

    Raises:
      ConfigError: An axis of the mesh does not divide a parameter.
    """
    shapes = t5.param_shapes(model)
    trainable, frozen = expert_kinds.split(shapes, pattern)
    parts = bytes_per_device(
        model.config, batch, devices, tx=tx, trainable=trainable, frozen=frozen
    )
    flops = cost.train_flops(model.config, batch, trainable=trainable, frozen=frozen)
    tokens = batch.batch_size * (batch.inputs_length + batch.targets_length)
    here = jax.device_count()
    elsewhere = "" if devices.count <= here else f"; this machine has {here}"
    used = [f"{name} {_gib(size)}" for name, size in parts.items() if size]
    return {
        "parameters": f"{trees.count_params(shapes):,}",
        "trained per expert": f"{trees.count_params(trainable):,}",
        "devices": f"{devices.num_data} (data) x {devices.num_model} (model)"
        f" by rules {devices.axis_rules!r}{elsewhere}",
        "bytes per device, about": f"{_gib(sum(parts.values()))}: {', '.join(used)}",
        "tokens per step, at most": f"{tokens:,}",
        "FLOPs per step, at most": f"{flops:.3g}"
        f" ({flops / devices.count:.3g} per device)",
    }


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
