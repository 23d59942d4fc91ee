"""How a fleet lies on devices: experts over all of them, or the base split, too.

Devices are those of one process. Joined processes deal the list of experts out by name,
every n-th to each of n (`work_sharing`), and each lays out a fleet of its own; so no
gradient, and no part of a base, crosses between hosts. Nothing here asks for devices.
"""

from collections.abc import Iterator
from typing import Any

from elm_jax import errors
from elm_jax.model import t5
from elm_jax.peft import expert_parts
from elm_jax.runs.training.fleet_layout import Layout, Needs, show_size
from elm_jax.runs.training.machine import Machine
from elm_jax.runs.training.spec import TrainingSpec

# The rest is for what no plan counts: fragments, collectives, the compiler's own.
USABLE_SHARE = 0.9
"""Of a device's memory, what a plan may fill."""


class FleetTooLargeError(errors.ConfigError):
    """The fleet does not fit on the devices, at least not with the requested lanes."""


def choose_layout(
    needs: Needs,
    *,
    num_devices: int,
    memory_bytes: int | None,
    num_model: int = 0,
    needs_all_lanes: bool = False,
) -> Layout:
    """Returns the layout in which the fewest devices share a base.

    A base that fits on one device beside its experts, the step of one of them at work,
    is kept whole there, and the experts are spread over the devices, which then need
    not talk to each other. Else the base is split over as few as it fits on. Then as
    many lanes are taken, of those of the fleet, as there is memory left for.

    Args:
      needs: What is to be laid out.
      num_devices: How many devices there are.
      memory_bytes: Of each; None if unknown, which is taken for enough.
      num_model: Devices that are to share a base; 0 for what is said above.
      needs_all_lanes: Whether fewer lanes will not do.

    Raises:
      FleetTooLargeError: It fits in no way, not with all lanes if they are needed.
      ConfigError: `num_model` does not divide a parameter.
    """
    arguments: dict[str, Any] = {
        "needs": needs,
        "num_devices": num_devices,
        "memory_bytes": memory_bytes,
    }
    if memory_bytes is None:
        layout = Layout(
            num_model=num_model or 1, num_lanes=needs.num_lanes, **arguments
        )
        if num_model:
            _ = layout.bytes_per_device  # raises if it does not divide a parameter
        return layout
    usable = int(USABLE_SHARE * memory_bytes)
    if num_model:
        layouts = iter([(num_model, needs.bytes_per_device(num_devices, num_model))])
    else:
        layouts = _layouts(needs, num_devices)
    too_large: list[tuple[int, dict[str, int]]] = []
    for num_model, parts in layouts:  # each costs the trace of a model
        if sum(parts.values()) <= usable:
            rejected = ""
            if too_large:
                split_over, former_bytes = too_large[-1]
                size = show_size(sum(former_bytes.values()))
                rejected = f"; over {split_over} it would be {size}"
            lanes, fewer_lanes = _fit_lanes(needs, num_devices, num_model, usable)
            if fewer_lanes and needs_all_lanes:
                raise _too_many_lanes(needs.num_lanes, lanes, fewer_lanes)
            return Layout(
                num_model=num_model,
                num_lanes=lanes,
                rejected=rejected + fewer_lanes,
                **arguments,
            )
        too_large.append((num_model, parts))
    num_model, parts = min(too_large, key=lambda each: sum(each[1].values()))
    used = ", ".join(f"{use} {show_size(size)}" for use, size in parts.items() if size)
    raise FleetTooLargeError(
        found=f"a fleet that takes {show_size(sum(parts.values()))} on each of"
        f" {num_devices} devices of {show_size(memory_bytes)}, the base split over"
        f" {num_model}: {used}",
        expected=f"at most {USABLE_SHARE:.0%} of a device's memory",
        do="Train fewer experts at a time, a smaller BATCH_SIZE, remat = 'layer',"
        " or use more devices; a base too large for one process's devices trains"
        " with options.Fleet.size = 0 and axis_rules = 'fsdp' over those of all",
    )


def layout_of(spec: TrainingSpec, machine: Machine) -> Layout:
    """Returns the layout of a fleet: as asked for, or chosen if nothing is asked.

    Raises:
      FleetTooLargeError: It fits in no way.
    """
    num_devices, num_model = machine.num_devices, 0
    if spec.placement.num_model > 1:
        num_model = spec.placement.num_model
        _check_num_model(num_model, num_devices)
        num_devices -= num_devices % num_model
    return choose_layout(
        _needs_of(spec, machine),
        num_devices=num_devices,
        memory_bytes=machine.memory_bytes,
        num_model=num_model,
        needs_all_lanes=spec.fleet.lanes > 0,
    )


def _needs_of(spec: TrainingSpec, machine: Machine) -> Needs:
    model = spec.build_model()
    trainable, frozen = expert_parts.split(
        t5.param_shapes(model), spec.trainable_pattern
    )
    # The largest of the shares that machines and their processes are dealt.
    num_shares = spec.num_shards * machine.num_processes
    return Needs(
        model=model,
        batch=spec.longest_batch(),
        tx=spec.optimizer.make(spec.train_steps),
        trainable=trainable,
        frozen=frozen,
        num_slots=min(spec.fleet.size, -(-len(spec.experts) // num_shares)),
        num_lanes=spec.fleet.lanes or (1 if machine.is_cpu else 8),
        platform=machine.platform,
        num_parts=spec.batching.num_parts,
    )


def _check_num_model(num_model: int, num_devices: int) -> None:
    if num_model > num_devices:
        raise errors.ConfigError(
            found=f"num_model = {num_model} for the {num_devices} devices of this"
            " process",
            expected="a fleet's base on the devices of one process",
            do=f"Set num_model to {num_devices} at most, or options.Fleet.size = 0 to"
            " train one after another over the devices of all processes",
        )


def _layouts(needs: Needs, num_devices: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Yields numbers of devices that can share a base, and what each device keeps."""
    for num_model in range(1, num_devices + 1):
        if num_devices % num_model:
            continue
        try:
            yield num_model, needs.bytes_per_device(num_devices, num_model)
        except errors.ConfigError:
            continue  # these do not divide a parameter


def _fit_lanes(
    needs: Needs, num_devices: int, num_model: int, usable: int
) -> tuple[int, str]:
    """Returns how many lanes fit, and what to say if that is not all."""
    totals = [
        sum(needs.bytes_per_device(num_devices, num_model, num_lanes=lanes).values())
        for lanes in range(1, needs.num_lanes + 1)
    ]
    if totals[-1] <= usable:
        return needs.num_lanes, ""
    fitting = sum(total <= usable for total in totals)
    text = (
        f"; {needs.num_lanes} lanes would take {show_size(totals[-1])}, {fitting} fit"
    )
    return fitting, text


def _too_many_lanes(num_lanes: int, fitting: int, reason: str) -> FleetTooLargeError:
    return FleetTooLargeError(
        found=f"lanes = {num_lanes}{reason}",
        expected=f"at most {USABLE_SHARE:.0%} of a device's memory",
        do=f"Set options.Fleet.lanes to {fitting}, or to 0, which takes what fits",
    )
