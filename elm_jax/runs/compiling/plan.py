"""What the planner says that a program takes, to hold it against the compiler."""

from elm_jax.runs import score_memory
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
    if program.kind == "ranking" or program.kind == "decoding":
        is_ranking = program.kind == "ranking"
        return score_memory.bytes_by_use(
            *(program.kind, program.network, program.params[1]),
            *(program.batch, program.devices),
            num_texts=program.num_choices if is_ranking else program.num_beams,
            platform=platform,
        )
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
