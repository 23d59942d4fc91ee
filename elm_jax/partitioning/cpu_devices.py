"""Uses a CPU as several devices, for work that has independent parts."""

import contextlib
import os

import jax

_MOST = 8  # each device holds a copy of what they share


def request() -> None:
    """Makes each core a device of JAX, 8 at most, if JAX has not been used yet.

    Does nothing if a number of devices was chosen already. Devices of other platforms
    stay as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_chosen = "xla_force_host_platform_device_count" in flags
    if is_chosen or jax.config.values["jax_num_cpu_devices"] >= 0:
        return
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(RuntimeError):  # JAX has been used already
        jax.config.update("jax_num_cpu_devices", min(cores, _MOST))
