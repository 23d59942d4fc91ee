"""How long a training step takes at least, by shape and by the rates of its devices."""

import dataclasses

from elm_jax.compiling import targets

_UNKNOWN = "h100"  # whose rates are taken for devices that nothing is known of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What decides the time of a step on each of its devices.

    Attributes:
      flops: Operations of each device, those that are computed again among them.
      param_bytes: Of the whole model, in the dtype that it is computed in.
      trained_bytes: Of what trains, in float32.
      num_parts: Of a batch, computed one after another.
      num_reads: How often a part reads each parameter: forward, backward, and where
        layers are computed again once more.
      num_devices: That share the batch.
      is_split: Whether they also split the parameters.
    """

    flops: float
    param_bytes: int
    trained_bytes: int
    num_parts: int = 1
    num_reads: int = 2
    num_devices: int = 1
    is_split: bool = False


def least_secs(work: Work, device: targets.Target | None) -> float:
    """Returns the seconds of products, of memory traffic and of links, added up.

    It is assumed that nothing overlaps. Activations are left out, as they are the same
    for all ways to compute a batch, but for recomputed operations. Each part reads
    parameters and writes gradients, and of several parts also reads and writes a sum.
    The optimiser reads and writes parameters and two moments. Devices exchange
    gradients in each part: each sends them twice in a ring that sums them, and once
    where it keeps only its own share of the sum; then it also gets parameters as often
    as it reads them.

    Args:
      work: The step.
      device: Its rates; None for those of a device that much is the same as.
    """
    rates = targets.find(_UNKNOWN) if device is None else device
    sums = 3 if work.num_parts > 1 else 1
    of_part = work.num_reads * work.param_bytes + sums * work.trained_bytes
    kept_bytes = work.trained_bytes / (work.num_devices if work.is_split else 1)
    # The optimiser reads gradients, and reads and writes three more arrays.
    traffic = work.num_parts * of_part + 7 * kept_bytes
    sent = 2 * work.trained_bytes
    if work.is_split:
        sent = work.num_reads * work.param_bytes + work.trained_bytes
    share = (work.num_devices - 1) / work.num_devices
    return (
        work.flops / rates.peak_flops
        + traffic / rates.bandwidth
        + work.num_parts * share * sent / rates.link_bandwidth
    )
