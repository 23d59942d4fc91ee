"""Chooses what a training computes again in its backward pass, by memory and time."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from elm_jax import errors
from elm_jax.model import config, cost, t5
from elm_jax.peft import expert_parts
from elm_jax.runs.placement import choose_devices
from elm_jax.runs.training import fleet_plan, step_cost
from elm_jax.runs.training.machine import Machine
from elm_jax.runs.training.spec import TrainingSpec


class Fitted(NamedTuple):
    """A training that says what it computes again.

    Attributes:
      spec: The training.
      why: How that was chosen, in a sentence; "" where the training said it itself.
    """

    spec: TrainingSpec
    why: str = ""


class _Choice(NamedTuple):
    """A way to train that fits: the least by this order is the fastest."""

    num_model: int  # devices that share a base talk to each other in every layer
    missing_lanes: int  # a lane saves more than all recomputation costs
    flops: float
    num_bytes: int
    spec: TrainingSpec


def fitted(spec: TrainingSpec, here: Machine, num_devices: int) -> Fitted:
    """Returns a training with the fastest `remat` that fits, where it says "fit".

    Of those that fit by plan: the one whose base is shared by the fewest devices, then
    that with the most lanes, then that with the fewest operations.

    Args:
      spec: The training.
      here: Devices of one process, for a fleet.
      num_devices: Those of all processes, for experts one after another.

    Raises:
      ConfigError: The memory of a device is not known, or nothing fits.
    """
    if spec.execution.remat != config.FIT:
        return Fitted(spec)
    if here.memory_bytes is None:
        raise errors.ConfigError(
            found="Execution.remat = 'fit' on devices that do not tell their memory",
            expected="a size to fit into",
            do="Set options.Fleet.device_memory_gib, or Execution.remat to one of"
            f" {', '.join(config.REMATS)}",
        )
    refused: dict[str, str] = {}
    choices = [*_choices(spec, here, num_devices, refused)]
    if not choices:
        sizes = ", ".join(f"{remat!r} {told}" for remat, told in refused.items())
        raise errors.ConfigError(
            found=f"no remat that fits on devices of"
            f" {fleet_plan.show_size(here.memory_bytes)}: {sizes}",
            expected=f"at most {fleet_plan.USABLE_SHARE:.0%} of a device's memory",
            do="Set a smaller BATCH_SIZE, axis_rules = 'fsdp', or use more devices",
        )
    best = min(choices, key=lambda choice: choice[:3])
    remat = best.spec.execution.remat
    told = f"{remat!r} takes {fleet_plan.show_size(best.num_bytes)} of"
    told += f" {fleet_plan.show_size(here.memory_bytes)}, {best.flops:.3g} FLOPs a step"
    others = [
        *(
            f"{choice.spec.execution.remat!r} {fleet_plan.show_size(choice.num_bytes)},"
            f" {choice.flops:.3g} FLOPs"
            for choice in choices
            if choice is not best
        ),
        *(f"{other!r} {told}" for other, told in refused.items()),
    ]
    return Fitted(best.spec, "; ".join((told, *others)))


def _choices(
    spec: TrainingSpec, here: Machine, num_devices: int, refused: dict[str, str]
) -> Iterator[_Choice]:
    """Yields what fits; says in `refused`, by `remat`, what does not."""
    assert here.memory_bytes is not None
    for remat in config.REMATS:
        execution = dataclasses.replace(spec.execution, remat=remat)
        changed = dataclasses.replace(spec, execution=execution)
        if spec.is_fleet:
            try:
                layout = fleet_plan.layout_of(changed, here)
            except fleet_plan.FleetTooLargeError:
                refused[remat] = "fits in no layout"
                continue
            size = sum(layout.bytes_per_device.values())
            order = (layout.num_model, -layout.num_lanes)
        else:
            size = solo_bytes(changed, here, num_devices)
            order = (1, 0)
            if size > fleet_plan.USABLE_SHARE * here.memory_bytes:
                refused[remat] = f"{fleet_plan.show_size(size)} does not fit"
                continue
        yield _Choice(*order, _flops(changed), size, changed)


def solo_bytes(spec: TrainingSpec, here: Machine, num_devices: int) -> int:
    """Returns what a step of one expert keeps on each device, by plan.

    Args:
      spec: A training that says what it computes again.
      here: What its devices are.
      num_devices: How many there are.

    Raises:
      ConfigError: They do not divide a parameter.
    """
    model = spec.build_model()
    trainable, frozen = expert_parts.split(
        t5.param_shapes(model), spec.trainable_pattern
    )
    parts = step_cost.bytes_per_device(
        model,
        spec.longest_batch(),
        choose_devices(spec.placement, num_devices),
        tx=spec.optimizer.make(spec.train_steps),
        trainable=trainable,
        frozen=frozen,
        platform=here.platform,
    )
    return sum(parts.values())


def _flops(spec: TrainingSpec) -> float:
    model = spec.build_model()
    trainable, frozen = expert_parts.split(
        t5.param_shapes(model), spec.trainable_pattern
    )
    return cost.train_flops(
        model.config, spec.longest_batch(), trainable=trainable, frozen=frozen
    )
