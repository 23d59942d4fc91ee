"""The rows of a training's plan that tell what it costs, and on which devices."""

import jax

from elm_jax.partitioning import processes
from elm_jax.runs import placement
from elm_jax.runs.run import Plan, show_size
from elm_jax.runs.training import fitting, fleet_layout, fleet_plan, machine, step_cost
from elm_jax.runs.training.spec import TrainingSpec


def describe(spec: TrainingSpec) -> Plan:
    """Returns the rows for the devices that JAX has.

    Raises:
      ConfigError: Devices do not divide a parameter or a batch, or a fleet fits on
        them in no way.
    """
    devices_here = machine.this_machine(spec.fleet.device_memory_gib)
    spec, why = fitting.fitted(spec, devices_here, jax.device_count())
    lines = {"chosen as the fastest that fits": why} if why else {}
    layout = None
    devices = placement.choose_devices(spec.placement)
    if spec.is_fleet:
        layout = fleet_plan.layout_of(spec, devices_here)
        devices = placement.Devices(
            num_data=1, num_model=layout.num_model, axis_rules=layout.axis_rules
        )
    rows = lines | step_cost.describe(
        spec.build_model(),
        spec.longest_batch(),
        devices,
        trainable_pattern=spec.trainable_pattern,
        tx=spec.optimizer.make(spec.train_steps),
        num_parts=spec.batching.num_parts,
    )
    return rows if layout is None else rows | _describe_fleet(layout, devices_here)


def _describe_fleet(layout: fleet_layout.Layout, host: machine.Machine) -> Plan:
    groups = max(1, host.num_devices // layout.num_model)
    slots = -(-layout.num_slots // groups)
    lanes = min(layout.num_lanes, slots)
    order = f"{lanes} as one batch" if lanes > 1 else "one after another"
    uses, show = layout.bytes_per_device, show_size
    uses_text = ", ".join(f"{use} {show(size)}" for use, size in uses.items() if size)
    count = processes.count()
    dealt = f", in each of {count} processes: experts are dealt out by name"
    return {
        "fleet": f"{slots * groups} slots, {slots} by {groups}, steps {order}"
        + (dealt if count > 1 else ""),
        "devices": layout.why,
        "bytes per device, about": f"{show(sum(uses.values()))}: {uses_text}",
        "bytes per further expert": f"{uses['a state to be saved'] / 2**20:.2f} MiB on"
        " its device",
    }
