"""A CPU as several devices, for work that falls into independent parts."""

import contextlib
import os

import jax

_MOST = 8  # each holds a copy of what they share


def request() -> None:
    """Lets JAX see each core as a device, if it has not been used yet.

    No more than 8. Does nothing where somebody has
    chosen a number already; other platforms' devices stay as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_chosen = "xla_force_host_platform_device_count" in flags
    if is_chosen or jax.config.values["jax_num_cpu_devices"] >= 0:
        return
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(RuntimeError):  # JAX is at work: too late
        jax.config.update("jax_num_cpu_devices", min(cores, _MOST))
