"""What the accelerator benchmark measures: times, rates, memory, operations."""

import dataclasses
import importlib.metadata
import os
import platform
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax.model import cost

# Makers' dense bfloat16 rates in TFLOP/s, by a part of JAX's name of the device, from
# NVIDIA's data sheets (which say twice as much, of sparse matrices: 4.5 PFLOP/s of the
# B200) and Google's pages of TPU versions, as in elm_jax/compiling/targets.py.
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
}


def secs_of(fn):
    """Returns the seconds until what a function returns has been computed."""
    before = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - before


def time_steps(take, *, warmup, steps, limit_secs):
    """Returns the seconds of the first call, and of each timed one."""
    first = secs_of(take)
    for _ in range(warmup - 1):
        secs_of(take)
    times, before = [], time.perf_counter()
    while len(times) < steps and time.perf_counter() - before < limit_secs:
        times.append(secs_of(take))
    return first, times


def matmul_tflops(size, *, work_flops, repeats=5):
    """Returns the best rate of a chain of bfloat16 products of two squares.

    Args:
      size: Rows and columns.
      work_flops: Operations of a chain, about.
      repeats: Chains.
    """
    num_products = max(2, round(work_flops / (2 * size**3)))

    @jax.jit
    def chain(x, weights):
        def multiply(_, x):
            return jnp.dot(x, weights)

        return jax.lax.fori_loop(0, num_products, multiply, x)

    keys = jax.random.split(jax.random.key(0))
    x, weights = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    weights = weights * jnp.asarray(size**-0.5, jnp.bfloat16)  # the norm stays
    secs_of(lambda: chain(x, weights))
    best = min(secs_of(lambda: chain(x, weights)) for _ in range(repeats))
    return num_products * 2 * size**3 / best / 1e12


def peak_tflops():
    """Returns what the device's maker states, or None."""
    kind = jax.devices()[0].device_kind
    return next((rate for part, rate in PEAK_TFLOPS.items() if part in kind), None)


def memory_limit_bytes():
    """Returns the memory that programs may fill: the device's, or a host's."""
    stats = jax.devices()[0].memory_stats() or {}
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", host_bytes)


def peak_bytes():
    """Returns the most memory in use so far: the device's, or this process's."""
    stats = jax.devices()[0].memory_stats() or {}
    process_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get("peak_bytes_in_use", process_bytes)


def is_out_of_memory(error):
    """Returns whether an exception says that a device or a host has no memory left."""
    text = f"{type(error).__name__}: {error}".lower()
    signs = ("resource_exhausted", "out of memory", "memoryerror", "bad_alloc")
    return any(sign in text for sign in signs)


def describe_times(times):
    """Returns median, 10th and 90th percentile of some seconds."""
    low, middle, high = np.percentile(times, (10, 50, 90))
    return {
        "step_secs": float(middle),
        "step_secs_p10": float(low),
        "step_secs_p90": float(high),
        "num_steps": len(times),
    }


def describe_machine():
    """Returns device, flags of the compiler and versions."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "memory_limit_bytes": memory_limit_bytes(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": {"python": platform.python_version(), **versions},
    }


def score_flops(shape, sizes, params, *, num_choices):
    """Returns the operations of scoring: of inputs once, of targets per choice."""
    of_inputs = cost.forward_flops(
        shape, dataclasses.replace(sizes, targets_length=0), params
    )
    whole = cost.forward_flops(shape, sizes, params)
    return of_inputs + num_choices * (whole - of_inputs)
