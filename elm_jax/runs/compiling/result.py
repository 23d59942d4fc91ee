"""What came of compiling a program for an accelerator."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from elm_jax.compiling import messages, roofline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device, as the compiler laid them out.

    Attributes:
      arguments: Of parameters, state and batch.
      outputs: Of what comes out.
      aliased: Of outputs that take the memory of arguments.
      temporaries: Of all in between.
      code: Of the program.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of it at one time."""
        inputs_outputs = self.arguments + self.outputs - self.aliased
        return inputs_outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program that was compiled, or was not, and why.

    Attributes:
      memory: None if the compiler refused it.
      work: None if the compiler refused it.
      lower_secs: Time to trace it.
      compile_secs: Time of the compiler.
      out_of_memory: What the compiler said of too little memory; "" if nothing.
      program_hash: Of the program before it was compiled.
      saved_as: File of the compiled program; "" for none.
    """

    memory: Memory | None = None
    work: roofline.Work | None = None
    lower_secs: float = 0.0
    compile_secs: float = 0.0
    out_of_memory: str = ""
    program_hash: str = ""
    saved_as: str = ""


def to_json(compiled: Compiled) -> dict[str, Any]:
    """Returns JSON data, for `from_json`."""
    return dataclasses.asdict(compiled)


def from_json(data: Mapping[str, Any]) -> Compiled:
    """Returns what `to_json` gave the data of."""
    values = dict(data)
    if values["memory"] is not None:
        values["memory"] = Memory(**values["memory"])
    if values["work"] is not None:
        work = dict(values["work"])
        sent = tuple(messages.Collective(**fields) for fields in work["collectives"])
        values["work"] = roofline.Work(**{**work, "collectives": sent})
    return Compiled(**values)
