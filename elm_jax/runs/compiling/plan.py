"""What the planner says that a program takes, to hold it against the compiler."""

import dataclasses
import math

from elm_jax.model import cost
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.runs.compiling.programs import Program
from elm_jax.runs.training import fleet_layout, step_cost


def bytes_by_use(program: Program, platform: str) -> dict[str, int]:
    """Returns bytes on each device, by use; of a fleet without what saving takes.

    Args:
      program: Any.
      platform: Of the devices, as JAX calls it.

    Raises:
      ConfigError: The devices do not divide a parameter.
    """
    if program.kind in ("ranking", "decoding"):
        return _of_scoring(program, platform)
    assert program.optimizer is not None
    tx = program.optimizer.make(program.train_steps)
    trained, frozen = program.params
    if program.kind == "step":
        return step_cost.bytes_per_device(
            program.network,
            program.batch,
            program.devices,
            tx=tx,
            trainable=trained,
            frozen=frozen,
            platform=platform,
            num_parts=program.num_parts,
        )
    needs = fleet_layout.Needs(
        model=program.network,
        batch=program.batch,
        tx=tx,
        trainable=trained,
        frozen=frozen,
        num_slots=program.num_slots,
        num_lanes=program.num_lanes,
        platform=platform,
        num_parts=program.num_parts,
    )
    parts = needs.bytes_per_device(
        program.devices.count, program.devices.num_model, num_lanes=program.num_lanes
    )
    return {use: size for use, size in parts.items() if use != fleet_layout.SAVING}


def _of_scoring(program: Program, platform: str) -> dict[str, int]:
    devices, batch = program.devices, program.batch
    rows = math.ceil(batch.batch_size / meshes.batch_shares(devices.mesh))
    places = meshes.plan(program.params[1], devices.mesh, devices.axis_rules)
    is_shared = rules.axis_table(devices.axis_rules)["mlp"] == "model"
    local = dataclasses.replace(batch, batch_size=rows)
    num_model = devices.num_model if is_shared else 1
    is_ranking = program.kind == "ranking"
    most = (cost.ranking_bytes if is_ranking else cost.decoding_bytes)(
        program.model,
        local,
        program.num_choices if is_ranking else program.num_beams,
        num_model=num_model,
        platform=platform,
    )
    if devices.num_fsdp > 1:
        most += cost.gathered_bytes(program.network, num_model=num_model)
    return {
        "parameters": sum(place.bytes_per_device for place in places),
        "activations": most,
    }
