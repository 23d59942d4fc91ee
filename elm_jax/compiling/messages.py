"""The messages that devices send each other in a compiled program.

Reference:
  openxla/xla, docs/operation_semantics.md and xla/hlo/parser/hlo_parser_test.cc for
  collectives and how they are written. What the compiler for TPUs writes beyond that
  was read off its programs (tests/compiling/messages_tpu.hlo).
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from elm_jax import errors
from elm_jax.compiling import hlo, targets

_KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
# Such as mesh['data'=4,'model'=2] {'data'}; 'data':(2)2 is an axis of size 2 in 'data'.
# Their order, such as `, device_ids=([2,2,2]T(1,0,2))`, changes no size.
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))?\s*\{([^}]*)\}"
)
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_GROUPS = re.compile(r"replica_groups=.{0,60}")
_ALL = re.compile(r"replica_groups=\{\s*\}")
_SLICES = re.compile(r"slice_sizes=\{(\{[\d,{} ]*\})\}")
_IS_CONTINUED = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """Messages of one kind.

    Attributes:
      kind: Such as `all-reduce`.
      dtype: Of what is sent.
      group_size: Devices among which.
      count: How often in a step.
      num_bytes: Of all results in a step.
    """

    kind: str
    dtype: str
    group_size: int
    count: int
    num_bytes: int

    def secs(self, target: targets.Target) -> float:
        """Returns the least time that the messages take, sent around a ring.

        Args:
          target: The devices.
        """
        if self.group_size == 1:
            return 0.0
        share = (self.group_size - 1) / self.group_size
        times = {
            "all-reduce": 2 * share,
            "reduce-scatter": self.group_size - 1,
            "collective-permute": 1.0,  # each device sends all that it has
        }
        return self.num_bytes * times.get(self.kind, share) / target.link_bandwidth


def sent_by(instruction: hlo.Instruction, num_devices: int) -> Iterator[Collective]:
    """Yields a message for each result of an instruction, nothing if it sends none.

    Args:
      instruction: Any. Of a message in several instructions, only the first sends it.
      num_devices: Of the program.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind not in _KINDS or is_continued(instruction):
        return
    size = _group_size(instruction.attributes, num_devices)
    for dtype, num_bytes in _results(instruction, kind):
        yield Collective(
            kind=kind, dtype=dtype, group_size=size, count=1, num_bytes=num_bytes
        )


def is_continued(instruction: hlo.Instruction) -> bool:
    """Whether an instruction continues a message that an earlier instruction began.

    A TPU's compiler lets fusions compute while a message is sent. It writes the message
    into each of them, and counts flags from -1 where it begins.
    """
    return bool(_IS_CONTINUED.search(instruction.attributes))


def _results(instruction: hlo.Instruction, kind: str) -> Iterator[tuple[str, int]]:
    """Yields dtype and bytes of each result."""
    arrays = instruction.arrays
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # Operands, as many results, and what a device keeps of a message on its way.
        num = len(instruction.operands)
        arrays = arrays[num : 2 * num]
    if sliced := _SLICES.search(instruction.attributes):
        # Slices of one array are sent to be slices of another.
        dtype = instruction.arrays[0].dtype
        for sizes in re.findall(r"\{([\d,]*)\}", sliced[1]):
            dims = tuple(int(size) for size in sizes.split(",") if size)
            yield dtype, hlo.Array(dtype, dims).num_bytes
        return
    for array in arrays:
        yield array.dtype, array.num_bytes


def _group_size(attributes: str, num_devices: int) -> int:
    """Returns how many devices a message is among.

    Raises:
      ConfigError: If the groups are written in a way that this does not read.

    >>> _group_size(", replica_groups={{0,1},{2,3}}", 4)
    2
    >>> _group_size(", replica_groups=[2,8]<=[16]", 16)
    8
    >>> _group_size(", replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','b':(2)2}", 16)
    4
    >>> ids = ", device_ids=([2,2,2]T(1,0,2))"
    >>> _group_size(f", replica_groups=mesh['a'=2,'b'=4]{ids} {{'b'}}", 8)
    4
    """
    if match := _LISTED.search(attributes):
        return len(match[1].split(","))
    if counted := _COUNTED.search(attributes):
        return int(counted[1])
    if mesh := _MESH.search(attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = _AXIS.findall(mesh[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if "source_target_pairs" in attributes:
        return 2
    unread = _GROUPS.search(attributes)
    if unread and not _ALL.match(unread[0]):
        raise errors.ConfigError(
            found=f"a message whose devices are written as {unread[0]!r}",
            expected="such as {}, {{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2,'b'=2] {'a'}",
            do="report it with the versions of JAX and of the compiler; the bytes of "
            "its messages cannot be told",
        )
    return num_devices
