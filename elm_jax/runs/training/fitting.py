"""Chooses how a training is computed where that is left open: the fastest that fits."""

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from elm_jax import errors, trees
from elm_jax.model import config, cost, precision, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.peft import expert_parts
from elm_jax.runs.placement import Devices, Placement, choose_devices
from elm_jax.runs.run import show_size
from elm_jax.runs.training import fleet_plan, step_cost, step_time
from elm_jax.runs.training.machine import Machine
from elm_jax.runs.training.spec import TrainingSpec


class Fitted(NamedTuple):
    """A training in which nothing is left open, and the reason for the choice.

    Attributes:
      spec: The training.
      why: How that was chosen, in a sentence; "" where the training said it all itself.
    """

    spec: TrainingSpec
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to compute a training, and what it costs by plan.

    Attributes:
      spec: The training, with nothing left open.
      name: What it says of what was left open.
      num_bytes: Of each device; None if no layout of a fleet fits.
      flops: Operations of a step, on all devices.
      secs: Of a step, at least.
      num_model: Devices that share a base: they talk to each other in every layer.
      missing_lanes: A lane saves more than all recomputation costs.
    """

    spec: TrainingSpec
    name: str
    num_bytes: int | None
    flops: float
    secs: float
    num_model: int = 1
    missing_lanes: int = 0

    def __str__(self) -> str:
        """Returns name and costs, for a plan."""
        if self.num_bytes is None:
            return f"{self.name} fits in no layout"
        size = show_size(self.num_bytes)
        return f"{self.name} {size}, {self.flops:.3g} FLOPs, {1e3 * self.secs:.3g} ms"


def what_is_open(spec: TrainingSpec) -> list[str]:
    """Returns the fields that a training leaves to `fitted`, as gin files set them."""
    fields = {
        "Execution.remat = 'fit'": spec.execution.remat == config.FIT,
        "Placement.axis_rules = 'fit'": spec.placement.axis_rules == config.FIT,
        "Batching.num_parts = 0": not spec.batching.num_parts,
    }
    return [text for text, is_open in fields.items() if is_open]


def fitted(spec: TrainingSpec, host: Machine, num_devices: int) -> Fitted:
    """Returns a training whose open settings are chosen: the fastest that fits.

    Settings that are not open stay. All choices compute the same update of the same
    batch, but for rounding and, in parts of a batch, the values that dropout drops.

    Args:
      spec: The training.
      host: Devices of one process, for a fleet.
      num_devices: Devices of all processes, for experts one after another.

    Raises:
      ConfigError: The memory of a device is not known, nothing fits, or the devices
        divide neither parameters nor batch in any way.
    """
    open_fields = what_is_open(spec)
    if not open_fields:
        return Fitted(spec)
    if host.memory_bytes is None:
        raise errors.ConfigError(
            found=f"{', '.join(open_fields)} on devices that do not tell their memory",
            expected="a size to fit into",
            do="Set options.Fleet.device_memory_gib; or Execution.remat to one of"
            f" {', '.join(config.REMATS)}, axis_rules to data or fsdp, num_parts to 1",
        )
    memory, usable = host.memory_bytes, fleet_plan.USABLE_SHARE * host.memory_bytes
    ways, refused = _ways(spec, host, num_devices, usable)
    if not ways:
        raise refused[0]
    best = fastest(ways, usable)
    if best is None:
        raise errors.ConfigError(
            found=f"no way to compute that fits on devices of"
            f" {show_size(memory)}: {'; '.join(map(str, ways))}"
            + "".join(f"; {errors.first_line(error)}" for error in refused),
            expected=f"at most {fleet_plan.USABLE_SHARE:.0%} of a device's memory",
            do="Leave more open (gin/parts/fit.gin), use more devices, or train with"
            " shorter lengths or a smaller BATCH_SIZE, which is another training",
        )
    other_ways = [f"{way}{_verdict(way, usable)}" for way in ways if way is not best]
    other_ways += [
        errors.first_line(error).removeprefix("Found: ") for error in refused
    ]
    size = show_size(best.num_bytes or 0)
    reason = f"{best.name} takes {size} of {show_size(memory)},"
    reason += f" {best.flops:.3g} FLOPs a step, at least {1e3 * best.secs:.3g} ms"
    return Fitted(best.spec, "; ".join((reason, *other_ways)))


def fastest(ways: Sequence[Way], usable: float) -> Way | None:
    """Returns the way that trains fastest of those that fit, None if none does.

    That whose base is shared by the fewest devices, then that with the most lanes, then
    that with the shortest step, then the smallest; the first of equal ones.

    Args:
      ways: To choose from.
      usable: Bytes of each device.
    """
    fit = [w for w in ways if w.num_bytes is not None and w.num_bytes <= usable]
    return min(
        fit,
        key=lambda w: (w.num_model, w.missing_lanes, w.secs, w.num_bytes),
        default=None,
    )


def _verdict(way: Way, usable: float) -> str:
    is_too_large = way.num_bytes is not None and way.num_bytes > usable
    return " does not fit" if is_too_large else ""


def _ways(
    spec: TrainingSpec, host: Machine, num_devices: int, usable: float
) -> tuple[list[Way], list[errors.ConfigError]]:
    """Returns a way for each open recomputation and rule, each with the fewest parts.

    Also returns the errors of rules by which devices do not divide parameters or batch.
    """
    ways: list[Way] = []
    refused: dict[str, errors.ConfigError] = {}
    is_open = spec.execution.remat == config.FIT
    for remat in config.REMATS if is_open else (spec.execution.remat,):
        execution = dataclasses.replace(spec.execution, remat=remat)
        for placement in _placements(spec, num_devices):
            chosen = dataclasses.replace(spec, execution=execution, placement=placement)
            try:
                ways.append(_in_fewest_parts(spec, chosen, host, num_devices, usable))
            except errors.ConfigError as error:
                refused.setdefault(placement.axis_rules, error)
    return ways, [*refused.values()]


def _placements(spec: TrainingSpec, num_devices: int) -> Iterator[Placement]:
    if spec.placement.axis_rules != config.FIT:
        yield spec.placement
        return
    yield dataclasses.replace(spec.placement, axis_rules="data", num_fsdp=1)
    if num_devices > 1 and not spec.is_fleet:
        requested = spec.placement.num_fsdp
        num_fsdp = -1 if requested == 1 else requested
        yield dataclasses.replace(spec.placement, axis_rules="fsdp", num_fsdp=num_fsdp)


def _in_fewest_parts(
    spec: TrainingSpec,
    chosen: TrainingSpec,
    host: Machine,
    num_devices: int,
    usable: float,
) -> Way:
    """Returns the way with the fewest parts that fit, or with the most if none do."""

    @functools.cache
    def way_of(num_parts: int) -> Way:
        batching = dataclasses.replace(chosen.batching, num_parts=num_parts)
        whole = dataclasses.replace(chosen, batching=batching)
        return _way(whole, ", ".join(_names(spec, whole)), host, num_devices)

    def is_enough(num_parts: int) -> bool:
        way = way_of(num_parts)
        is_small = way.num_bytes is not None and way.num_bytes <= usable
        return is_small and way.num_model == 1

    first, *more = _numbers_of_parts(chosen, num_devices)
    if not more or is_enough(first):
        return way_of(first)
    # More parts take less, once there are several, whose gradients are summed.
    place = bisect.bisect_left(more, True, key=is_enough)  # noqa: FBT003
    return way_of(more[min(place, len(more) - 1)])


def _numbers_of_parts(spec: TrainingSpec, num_devices: int) -> list[int]:
    """Returns numbers of parts that devices can divide a batch into, fewest first."""
    if spec.batching.num_parts:
        return [spec.batching.num_parts]
    shares = 1
    if not spec.is_fleet:
        shares = meshes.batch_shares(choose_devices(spec.placement, num_devices).mesh)
    rows = spec.batch_size // shares
    return [1, *(n for n in range(2, rows + 1) if rows % n == 0)]


def _names(spec: TrainingSpec, chosen: TrainingSpec) -> Iterator[str]:
    if spec.execution.remat == config.FIT:
        yield f"{chosen.execution.remat!r}"
    if spec.placement.axis_rules == config.FIT:
        yield f"rules {chosen.placement.axis_rules!r}"
    if not spec.batching.num_parts:
        parts = chosen.batching.num_parts
        yield "the batch whole" if parts == 1 else f"the batch in {parts} parts"


def _way(spec: TrainingSpec, name: str, host: Machine, num_devices: int) -> Way:
    """Returns a way that leaves nothing open, with its costs.

    Raises:
      ConfigError: Devices do not divide a parameter or a part of the batch.
    """
    model = spec.build_model()
    trainable, frozen = expert_parts.split(
        t5.param_shapes(model), spec.trainable_pattern
    )
    batch = spec.longest_batch()
    flops = cost.train_flops(model.config, batch, trainable=trainable, frozen=frozen)
    size: int | None
    if spec.is_fleet:
        try:
            layout = fleet_plan.layout_of(spec, host)
            size = sum(layout.bytes_per_device.values())
            num_model, lanes = layout.num_model, layout.num_lanes
        except fleet_plan.FleetTooLargeError:
            size, num_model, lanes = None, host.num_devices, 0
        devices = Devices(num_data=1, num_model=num_model, axis_rules="data_model")
        order = {"num_model": num_model, "missing_lanes": -lanes}
    else:
        devices = choose_devices(spec.placement, num_devices)
        parts = spec.batching.num_parts
        meshes.check_batch_size(batch.batch_size, devices.mesh, num_parts=parts)
        size, order = solo_bytes(spec, host, num_devices), {}
    every = precision.in_compute_dtype(model.config, trees.join(trainable, frozen))
    work = step_time.Work(
        flops=flops / devices.count,
        param_bytes=sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize
            for leaf in trees.flatten(every).values()
        ),
        trained_bytes=4 * trees.count_params(trainable),
        num_parts=spec.batching.num_parts,
        num_reads=3 if model.config.remat == "layer" else 2,
        num_devices=devices.num_data * devices.num_fsdp,
        is_split=devices.num_fsdp > 1,
    )
    secs = step_time.least_secs(work, host.target)
    return Way(spec=spec, name=name, num_bytes=size, flops=flops, secs=secs, **order)


def solo_bytes(spec: TrainingSpec, host: Machine, num_devices: int) -> int:
    """Returns what a step of one expert keeps on each device, by plan.

    Args:
      spec: A training that leaves nothing open.
      host: What its devices are.
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
        platform=host.platform,
        num_parts=spec.batching.num_parts,
    )
    return sum(parts.values())
