"""What a fleet keeps on each device, and how it lies over devices, by shape alone."""

import jax

from elm_jax import errors
from elm_jax.runs.run import Plan


def describe(
    parts: dict[str, int],
    *,
    num_slots: int,
    num_lanes: int,
    num_devices: int,
    num_model: int,
) -> Plan:
    """Returns the rows of a plan that tell of a fleet.

    Args:
      parts: Bytes of one expert's training on one device, by use, from
        `train_plan.bytes_per_device`.
      num_slots: Experts at a time.
      num_lanes: Experts whose steps a device computes as one batch.
      num_devices: All that there are.
      num_model: Devices that share the base's parameters.

    Raises:
      ConfigError: There are fewer devices than are to share the base.
    """
    if num_model > num_devices:
        raise errors.ConfigError(
            errors.explain(
                found=f"num_model = {num_model} for {num_devices} devices",
                expected="no more shares of the base than devices",
                do="Choose a smaller num_model, or more devices",
            )
        )
    groups = num_devices // num_model
    own = -(-num_slots // groups)
    lanes = min(num_lanes, own)
    base = parts["frozen parameters"]
    per_expert = parts["trained parameters"] + parts["optimiser"]
    at_work = lanes * (parts["gradients"] + parts["activations"])
    total = base + own * per_expert + at_work
    way = f"{lanes} as one batch" if lanes > 1 else "one after another"
    places = "devices" if num_model == 1 else f"groups of {num_model} devices"
    return {
        "fleet": f"{own * groups} slots, {own} on each of {groups} {places}, their"
        f" steps {way}; a free slot takes the next expert",
        "base": _tell_why(base, num_model),
        "bytes per device, about": f"{_gib(total)}: base {_gib(base)}, experts"
        f" {own} x {_mib(per_expert)}, gradients and activations {_gib(at_work)}",
        "bytes per further expert": f"{_mib(per_expert)}, on its device",
    }


def _tell_why(base_bytes: int, num_model: int) -> str:
    """Returns where the base lies, and the reason."""
    if num_model > 1:
        return (
            f"split over {num_model} devices (num_model), {_gib(base_bytes)} each:"
            " for a base that one device has no room for"
        )
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit", 0)
    if limit and base_bytes > 0.8 * limit:
        return (
            f"whole on each device, {_gib(base_bytes)} of {_gib(limit)}: too little"
            " room is left; split it with num_model and axis_rules = 'data_model'"
        )
    return f"whole on each device, as it fits ({_gib(base_bytes)}); experts are divided"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.2f} MiB"
