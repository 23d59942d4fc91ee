"""How a process reads the files of others, whatever it runs; set in gin files."""

import dataclasses

from elm_jax import fields
from elm_jax.checkpoints import digests
from elm_jax.limits import limited


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How files of strangers are read; for every run of the process.

    Attributes:
      memory_bytes: Address space of the process that reads what strangers wrote:
        templates, patterns, vocabularies and tokenizers.
      cpu_secs: Its seconds of processor time for each file, pattern or row.
      wall_secs: Its seconds on the clock, likewise.
      compare_tensors: Whether the tensors of bases and experts are compared with their
        digests when they are loaded. If not, standard error says so.
    """

    memory_bytes: limited.Memory = limited.DEFAULT.memory_bytes
    cpu_secs: fields.Positive = limited.DEFAULT.cpu_secs
    wall_secs: fields.Positive = limited.DEFAULT.wall_secs
    compare_tensors: bool = True

    def __post_init__(self) -> None:
        fields.check(self)

    def use(self) -> None:
        """Makes this the way of this process."""
        limits = limited.Limits(
            memory_bytes=self.memory_bytes,
            cpu_secs=self.cpu_secs,
            wall_secs=self.wall_secs,
        )
        limited.use(limits)
        digests.compare_tensors(self.compare_tensors)
