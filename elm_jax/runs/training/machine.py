"""What this process has to train a fleet on."""

from typing import NamedTuple

import jax

from elm_jax.compiling import targets
from elm_jax.partitioning import processes


class Machine(NamedTuple):
    """The devices that a fleet is laid out on.

    Attributes:
      num_devices: Of this process, whether or not it has joined others: a base may be
        split over them, never over those of several processes.
      memory_bytes: Of each, the least of all processes, so that they all choose the
        same; None if that of one is unknown.
      is_cpu: Whether they are CPUs.
      num_processes: That the experts are dealt out to.
      platform: Of the devices, as JAX calls it.
      target: What is known of their kind; None for nothing.
    """

    num_devices: int
    memory_bytes: int | None
    is_cpu: bool
    num_processes: int
    platform: str = ""
    target: targets.Target | None = None


def this_machine(device_memory_gib: float) -> Machine:
    """Returns the devices of this process, as JAX has them; call it in all processes.

    Args:
      device_memory_gib: Memory of each, to be taken instead of what it tells; 0 to
        ask it.
    """
    return Machine(
        num_devices=jax.local_device_count(),
        memory_bytes=_least(device_memory(device_memory_gib)),
        is_cpu=jax.default_backend() == "cpu",
        num_processes=processes.count(),
        platform=jax.default_backend(),
        target=targets.of_kind(jax.local_devices()[0].device_kind),
    )


def _least(num_bytes: int | None) -> int | None:
    """Returns the least of all processes' bytes, in whole MiB if there are several."""
    every = processes.exchange([(num_bytes or 0) >> 20])
    return num_bytes if len(every) == 1 else (int(every.min()) << 20) or None


def device_memory(given_gib: float = 0.0) -> int | None:
    """Returns the bytes of this machine's first device, None if it does not tell.

    Args:
      given_gib: To be taken instead, in GiB, if not 0.
    """
    if given_gib:
        return int(given_gib * 2**30)
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")
