"""What a compiled program does, and the least time that it can take on a device.

Loop bodies count as often as they run, which XLA's own `cost_analysis` does not do.
Each instruction takes as long as its operations or its bytes need, whichever is more;
nothing else is known of it, so that real steps take longer.
"""

import collections
import dataclasses
from collections.abc import Mapping

from elm_jax.compiling import hlo, loops, messages, products, targets, traffic

# float32 products on tensor cores take TF32, at half of the rate of bfloat16; a TPU
# makes one bfloat16 product of them.
_FLOAT32_SHARE = {"cuda": 0.5, "tpu": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and traffic of one call of a program on a device.

    Attributes:
      flops: Of matrix products.
      num_bytes: Read from memory and written, about.
      collectives: By kind, dtype and size of the group.
      compute_secs: The least time without messages.
      message_secs: The least time of all messages one after another.
    """

    flops: int
    num_bytes: int
    collectives: tuple[messages.Collective, ...]
    compute_secs: float
    message_secs: float

    @property
    def least_secs(self) -> float:
        """The least time, all messages sent while the device computes."""
        return max(self.compute_secs, self.message_secs)

    @property
    def most_secs(self) -> float:
        """The same, if nothing is computed while messages are sent."""
        return self.compute_secs + self.message_secs


def work_of(text: str, target: targets.Target) -> Work:
    """Returns what a program does.

    Args:
      text: Of optimised HLO, of the program of one device.
      target: The device.
    """
    counter = _Counter(hlo.parse(text), target)
    counter.walk(counter.module.entry, times=1, is_fused=False)
    collectives = tuple(
        messages.Collective(
            kind=kind, dtype=dtype, group_size=size, count=n, num_bytes=num
        )
        for (kind, dtype, size), (n, num) in sorted(counter.messages.items())
    )
    return Work(
        flops=counter.flops,
        num_bytes=counter.num_bytes,
        collectives=collectives,
        compute_secs=counter.secs,
        message_secs=sum(collective.secs(target) for collective in collectives),
    )


class _Counter:
    def __init__(self, module: hlo.Module, target: targets.Target) -> None:
        self.module, self._target = module, target
        self.flops = self.num_bytes = 0
        self.secs = 0.0
        self.messages: dict[tuple[str, str, int], tuple[int, int]] = (
            collections.defaultdict(lambda: (0, 0))
        )

    def walk(self, name: str, *, times: int, is_fused: bool) -> None:
        """Adds what a computation does, which runs a number of times."""
        computation = self.module.computations[name]
        for instruction in computation.values():
            self._note_message(instruction, times)
            if instruction.opcode == "while":
                inner = times * loops.trips(instruction, computation, self.module)
                for body in instruction.called("body"):
                    self.walk(body, times=inner, is_fused=False)
            elif instruction.opcode == "conditional":
                self._walk_dearest(instruction, times)
            elif instruction.opcode in ("call", "async-start"):
                for callee in instruction.called("calls", "to_apply"):
                    self.walk(callee, times=times, is_fused=is_fused)
            elif not is_fused:
                self._note(instruction, computation, times)

    def _note(
        self,
        instruction: hlo.Instruction,
        computation: Mapping[str, hlo.Instruction],
        times: int,
    ) -> None:
        """Adds one instruction, or a fusion with all that is in it."""
        flops = secs = 0.0
        for inner, place in self._inside(instruction, computation):
            inner_flops = products.flops(inner, place)
            flops += inner_flops
            rate = self._target.peak_flops
            if inner_flops and products.is_float32(inner, place):
                rate *= _FLOAT32_SHARE[self._target.platform]
            secs += inner_flops / rate
            if inner is not instruction:
                self._note_message(inner, times)
        num_bytes = traffic.num_bytes(instruction, computation, self.module)
        self.flops += int(times * flops)
        self.num_bytes += times * num_bytes
        self.secs += times * max(secs, num_bytes / self._target.bandwidth)

    def _inside(
        self, instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction]
    ) -> list[tuple[hlo.Instruction, Mapping[str, hlo.Instruction]]]:
        """Returns an instruction and those of a fusion, with their computations."""
        inside = [(instruction, computation)]
        if instruction.opcode == "fusion":
            for callee in instruction.called("calls"):
                place = self.module.computations[callee]
                for inner in place.values():
                    inside += self._inside(inner, place)
        return inside

    def _walk_dearest(self, instruction: hlo.Instruction, times: int) -> None:
        """Adds the costs of the most expensive branch."""
        kinds = ("branch_computations", "true_computation", "false_computation")
        branches = [
            _Counter(self.module, self._target) for _ in instruction.called(*kinds)
        ]
        for branch, name in zip(branches, instruction.called(*kinds), strict=True):
            branch.walk(name, times=times, is_fused=False)
        dearest = max(branches, key=lambda branch: (branch.secs, branch.num_bytes))
        self.flops += dearest.flops
        self.num_bytes += dearest.num_bytes
        self.secs += dearest.secs
        for key, (count, num) in dearest.messages.items():
            old_count = self.messages[key]
            self.messages[key] = old_count[0] + count, old_count[1] + num

    def _note_message(self, instruction: hlo.Instruction, times: int) -> None:
        for message in messages.sent_by(instruction, self._target.num_devices):
            key = message.kind, message.dtype, message.group_size
            count, num = self.messages[key]
            self.messages[key] = count + times, num + times * message.num_bytes
