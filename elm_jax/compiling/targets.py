"""Accelerators that programs can be compiled for, by the names that clouds give them.

TPU: `v4-8` and `v5p-8` count cores, of which a chip has two; `v5litepod-4`, its short
form `v5e-4`, and `v6e-4` count chips. GPU: `h100` is one card, `h100:8` eight of one
host. Names of cards are in any case; `a100` is that of 80 GB, `a100-40gb` the smaller.

References:
  cloud.google.com/tpu/docs (v4, v5e, v5p, v6e) for chips, memory, operations and
  links; openxla/xla, xla/backends/gpu/target_config/specs, for cards; NVIDIA's data
  sheets for their dense bfloat16 operations and NVLink.
"""

import dataclasses
import math
import os
import re
from typing import Literal

from elm_jax import errors

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Devices of one kind, and what each of them can do.

    Attributes:
      name: As clouds write it.
      platform: `tpu` or `cuda`.
      chip: The kind of device, such as `v5e` or `h100`.
      topology: JAX's name of how devices are linked.
      num_devices: All of them; a TPU's chip is one device.
      devices_per_host: Of one process.
      memory_bytes: Of a device, as much as programs may use: of a GPU, JAX takes a
        share, `XLA_PYTHON_CLIENT_MEM_FRACTION`, by default 75 %.
      peak_flops: bfloat16 operations per second of a device, at most.
      bandwidth: Bytes per second between a device and its memory.
      link_bandwidth: Bytes per second that a device sends to others of its slice or
        host.
    """

    name: str
    platform: Literal["tpu", "cuda"]
    chip: str
    topology: str
    num_devices: int
    devices_per_host: int
    memory_bytes: int
    peak_flops: float
    bandwidth: float
    link_bandwidth: float

    @property
    def num_hosts(self) -> int:
        """How many processes there are."""
        return self.num_devices // self.devices_per_host

    @property
    def one_host(self) -> "Target":
        """The devices of one process, as a target of its own."""
        if self.num_hosts == 1:
            return self
        return _tpu(self.chip, self.devices_per_host, name=f"{self.name}, one host")


@dataclasses.dataclass(frozen=True)
class _Chip:
    memory_gib: float  # what the compiler gives to programs
    tflops: float
    gbytes_per_sec: float
    link_gbytes_per_sec: float  # one way, over all links of a chip
    per_name: int = 1  # what names count for each chip: two cores, or the chip
    axes: int = 2  # of a slice's torus


_TPUS = {
    "v4": _Chip(30.75, 275, 1228, 150, per_name=2, axes=3),
    "v5e": _Chip(15.75, 197, 819, 100),
    "v5p": _Chip(95.74, 459, 2765, 300, per_name=2, axes=3),
    "v6e": _Chip(31.25, 918, 1640, 200),
}
_TPU_NAMES = {
    "v4": "v4",
    "v5litepod": "v5e",
    "v5e": "v5e",
    "v5p": "v5p",
    "v6e": "v6e",
}
_TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
}
# Most chips of a slice; the number is a power of two.
_MOST_CHIPS = {"v4": 2048, "v5e": 256, "v5p": 4096, "v6e": 256}


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU, as XLA's target description has it.

    Attributes:
      description: What the driver calls it.
      memory_bytes: All of it.
      tflops: Dense bfloat16.
      bytes_per_sec: To its memory.
      link_gbytes_per_sec: NVLink, one way.
      core_count: Multiprocessors.
      fpus_per_core: float32 units of each.
      l2_cache_size: Bytes.
      clock_rate_ghz: Of the cores.
      shared_memory_per_core: Bytes.
      capability: Compute capability, major.
    """

    description: str
    memory_bytes: int
    tflops: float
    bytes_per_sec: int
    link_gbytes_per_sec: float
    core_count: int
    fpus_per_core: int
    l2_cache_size: int
    clock_rate_ghz: float
    shared_memory_per_core: int
    capability: int


CARDS = {
    "a100": Card(
        *("NVIDIA A100-SXM4-80GB", 85_100_068_864, 312, 2_039_040_000_000, 300),
        *(108, 64, 41_943_040, 1.41, 167_936, 8),
    ),
    "a100-40gb": Card(
        *("NVIDIA A100-SXM4-40GB", 42_331_013_120, 312, 1_555_200_000_000, 300),
        *(108, 64, 41_943_040, 1.41, 167_936, 8),
    ),
    "h100": Card(
        *("NVIDIA H100 80GB HBM3", 84_942_979_072, 989, 3_352_320_000_000, 450),
        *(132, 128, 52_428_800, 1.98, 233_472, 9),
    ),
    "h200": Card(
        *("NVIDIA H200 141GB HBM3e", 151_397_597_184, 989, 4_800_000_000_000, 450),
        *(132, 128, 52_428_800, 1.98, 233_472, 9),
    ),
    "b200": Card(
        *("NVIDIA B200", 191_514_411_008, 2250, 7_672_320_000_000, 900),
        *(148, 128, 132_644_864, 1.965, 233_472, 10),
    ),
}
_CARD_NAMES = {**{name: name for name in CARDS}, "a100-80gb": "a100"}
_CARDS_PER_HOST = 8


def find(name: str) -> Target:
    """Returns the target of a name.

    >>> find("v5litepod-16").topology, find("v4-8").num_devices
    ('v5e:4x4', 4)
    >>> find("h100:8").num_devices
    8

    Raises:
      ConfigError: No target has this name.
    """
    text = name.strip().lower()
    if match := re.fullmatch(r"([a-z0-9-]+?)(?::(\d+))?", text):
        card, count = _CARD_NAMES.get(match[1]), int(match[2] or 1)
        if card is not None and 1 <= count <= _CARDS_PER_HOST:
            return _gpu(card, count, name=text)
    if match := re.fullmatch(r"([a-z0-9]+)-(\d+)", text):
        chip = _TPU_NAMES.get(match[1], "")
        if chip and int(match[2]) in _counts(chip):
            return _tpu(chip, int(match[2]) // _TPUS[chip].per_name, name=text)
    raise errors.ConfigError(
        found=f"no accelerator {name!r}",
        expected=f"a TPU such as {', '.join(_example_tpus())}, or a GPU such as"
        f" {', '.join(_CARD_NAMES)}, with :2 to :{_CARDS_PER_HOST} for several of one"
        " host",
        do=errors.did_you_mean(text, _all_names()),
    )


def of_kind(device_kind: str) -> Target | None:
    """Returns one device of a kind that JAX names; None if nothing is known of it.

    >>> of_kind("TPU v5 lite").chip, of_kind("NVIDIA H100 80GB HBM3").chip
    ('v5e', 'h100')
    """
    for name, card in CARDS.items():
        if card.description == device_kind:
            return find(name)
    chip = _TPU_KINDS.get(device_kind)
    return None if chip is None else _tpu(chip, 1, name=device_kind)


def larger(target: Target) -> list[Target]:
    """Returns targets of the same kind of device with more devices, smallest first."""
    if target.platform == "cuda":
        counts = [n for n in (2, 4, 8) if n > target.num_devices]
        return [_gpu(target.chip, n, name=f"{target.chip}:{n}") for n in counts]
    prefix = re.sub(r"\d+$", "", target.name)
    per_name = _TPUS[target.chip].per_name
    counts = [n for n in _counts(target.chip) if n // per_name > target.num_devices]
    return [find(f"{prefix}{n}") for n in counts]


def _counts(chip: str) -> list[int]:
    """Returns the numbers that names of a kind of TPU may end with."""
    most = int(math.log2(_MOST_CHIPS[chip]))
    chips = [2**power for power in range(most + 1)]
    least = (4,) if _TPUS[chip].axes == 3 else (1, 4)
    return [n * _TPUS[chip].per_name for n in chips if n in least or n > 4]


def _example_tpus() -> list[str]:
    return ["v4-8", "v5litepod-1", "v5litepod-16", "v5p-8", "v6e-8"]


def _all_names() -> list[str]:
    tpus = [f"{name}-{n}" for name, chip in _TPU_NAMES.items() for n in _counts(chip)]
    return [*tpus, *_CARD_NAMES]


def _tpu(chip: str, num_chips: int, *, name: str) -> Target:
    kind = _TPUS[chip]
    sizes = _torus(num_chips, kind.axes)
    return Target(
        name=name,
        platform="tpu",
        chip=chip,
        topology=f"{chip}:{'x'.join(map(str, sizes))}",
        num_devices=num_chips,
        # Slices of eight v5e or v6e chips are one host's, larger ones have four each.
        devices_per_host=8 if sizes == (2, 4) else min(num_chips, 4),
        memory_bytes=int(kind.memory_gib * _GIB),
        peak_flops=kind.tflops * 1e12,
        bandwidth=kind.gbytes_per_sec * 1e9,
        link_bandwidth=kind.link_gbytes_per_sec * 1e9,
    )


def _torus(num_chips: int, num_axes: int) -> tuple[int, ...]:
    """Returns the sizes of a slice, as even as they can be.

    >>> _torus(8, 2), _torus(4, 3), _torus(16, 3), _torus(128, 3)
    ((2, 4), (2, 2, 1), (2, 2, 4), (4, 4, 8))
    """
    if num_axes == 3 and num_chips == 4:
        return 2, 2, 1  # the chips of one host
    power, sizes = int(math.log2(num_chips)), [1] * num_axes
    for axis in range(power):
        sizes[-1 - axis % num_axes] *= 2
    return tuple(sizes)


def _gpu(card: str, count: int, *, name: str) -> Target:
    spec = CARDS[card]
    return Target(
        name=name,
        platform="cuda",
        chip=card,
        topology=f"1x1x{count}",
        num_devices=count,
        devices_per_host=count,
        memory_bytes=int(_gpu_share() * spec.memory_bytes),
        peak_flops=spec.tflops * 1e12,
        bandwidth=spec.bytes_per_sec,
        link_bandwidth=spec.link_gbytes_per_sec * 1e9,
    )


def _gpu_share() -> float:
    """Returns the share of a GPU's memory that JAX takes."""
    try:
        return float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"))
    except ValueError:
        return 0.75
