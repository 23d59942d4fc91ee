"""Devices of accelerators that are not here: for compiling, not for running.

The plug-ins of JAX read the environment when they are loaded, and may end the whole
process where a program is too large; so all of this belongs into a process of its own,
started with `environment`.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

from jax.experimental import topologies

from elm_jax import errors
from elm_jax.compiling import targets

EXTRAS = {
    "tpu": ("compile_tpu", "libtpu"),
    "cuda": ("compile_gpu", "jax_cuda12_plugin"),
}
"""The extra that brings what compiles for a platform, and a module of it."""

_TPU_ENVIRONMENT = {
    # Without these the plug-in asks a cloud's metadata server, and waits for it.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    # Several processes may compile at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_GPU_ENVIRONMENT = {
    # There is no driver whose version could be looked at.
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
_CUDA_VERSION = (12, 8)
CUDNN_VERSION = (9, 8)
"""Of GPUs that are not here: major and minor."""


def check_installed(target: targets.Target) -> None:
    """Raises MissingExtraError if nothing here compiles for a target."""
    extra, module = EXTRAS[target.platform]
    if importlib.util.find_spec(module) is None:
        raise errors.MissingExtraError(
            found=f"no package {module}, whose compiler makes programs for"
            f" {target.name}",
            expected=f"the extra {extra}",
            do=f"pip install 'elm_jax[{extra}]'; it needs no such device",
        )


def environment(target: targets.Target) -> dict[str, str]:
    """Returns variables that a process needs before it imports JAX."""
    of_platform = {"tpu": _TPU_ENVIRONMENT, "cuda": _GPU_ENVIRONMENT}
    return {"JAX_PLATFORMS": "cpu", **of_platform[target.platform]}


def devices(target: targets.Target) -> Sequence[Any]:
    """Returns all devices of a target, in the order of JAX's meshes.

    Raises:
      MissingExtraError: Nothing here compiles for the target.
    """
    check_installed(target)
    if target.platform == "cuda":
        description = topologies.get_topology_desc(
            target.chip,
            "cuda",
            target_config=describe_card(targets.CARDS[target.chip]),
            topology=target.topology,
        )
        return description.devices
    settings: dict[str, Any] = {}
    if target.num_devices == 1:
        settings["chips_per_host_bounds"] = (1, 1, 1)
    if target.chip == "v4":
        settings["chip_config_name"] = "megacore"  # else each of its cores is a device
    description = topologies.get_topology_desc(
        platform="tpu", topology_name=target.topology, **settings
    )
    linked = description.devices
    assert len(linked) == target.num_devices, f"{target.name} has {len(linked)}"
    return linked


def describe_card(card: targets.Card) -> str:
    """Returns the text form of XLA's `GpuTargetConfigProto` for a card."""
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": card.shared_memory_per_core,
        "threads_per_core_limit": 2048,
        "core_count": card.core_count,
        "fpus_per_core": card.fpus_per_core,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": card.bytes_per_sec,
        "l2_cache_size": card.l2_cache_size,
        "clock_rate_ghz": card.clock_rate_ghz,
        "device_memory_size": card.memory_bytes,
        "shared_memory_per_block_optin": card.shared_memory_per_core - 1024,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    major, minor = _CUDA_VERSION
    dnn_major, dnn_minor = CUDNN_VERSION
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            f"  cuda_compute_capability {{ major: {card.capability} }}",
            "}",
            'platform_name: "CUDA"',
            f"runtime_version {{ major: {major} minor: {minor} }}",
            f"dnn_version_info {{ major: {dnn_major} minor: {dnn_minor} }}",
            f'device_description_str: "{card.description}"',
            "",
        ]
    )
