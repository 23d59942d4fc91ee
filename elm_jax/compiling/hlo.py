"""Reads the text of optimised HLO, as `jax.stages.Compiled.as_text` gives it.

Reference:
  openxla/xla, docs/operation_semantics.md, and xla/hlo/ir/hlo_instruction.cc for the
  text.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
    "c128": 16,
    "token": 0,
    "opaque": 0,
}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) (?:\(.*\) -> .* )?\{")


class Array(NamedTuple):
    """An array of a shape: a whole value, or a part of a tuple."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many values."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Without the padding of a layout; types of 8 bits or fewer take 1 each."""
        return self.size * _BYTES.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Unique in its computation.
      opcode: Such as `dot`.
      arrays: Of its result; several of a tuple.
      operands: Names of instructions of the same computation.
      inner: The text between the parentheses: operands, or the value of a constant.
      attributes: What follows them.
      is_root: Whether it is the result of the computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    inner: str
    attributes: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Of its result."""
        return sum(array.num_bytes for array in self.arrays)

    def called(self, *kinds: str) -> tuple[str, ...]:
        """Returns the computations that the instruction calls by these attributes."""
        names: list[str] = []
        for kind in kinds:
            pattern = rf"\b{kind}=(\{{[^}}]*\}}|%[\w.\-]+)"
            for match in re.finditer(pattern, self.attributes):
                names += _NAME.findall(match[1])
        return tuple(names)


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
      entry: Name of the computation that it starts with.
      computations: Instructions by name, of each computation by name.
    """

    entry: str
    computations: Mapping[str, Mapping[str, Instruction]]


def parse(text: str) -> Module:
    """Returns the computations of a program's text.

    >>> module = parse('''HloModule m
    ...
    ... ENTRY %main (x: f32[2,3]) -> f32[2,3] {
    ...   %x = f32[2,3]{1,0} parameter(0)
    ...   ROOT %y = f32[2,3]{1,0} negate(%x)
    ... }''')
    >>> module.entry, module.computations["main"]["y"].operands
    ('main', ('x',))

    Raises:
      ValueError: It has no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            instruction = _instruction(line)
            if instruction is not None:
                current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the text of the program")
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    start = _INSTRUCTION.match(line)
    if start is None:
        return None
    shape_end = start.end()
    if line[shape_end] == "(":
        shape_end = _closing(line, shape_end) + 1
    else:
        shape_end = line.index(" ", shape_end)
    opening = line.index("(", shape_end)
    closing = _closing(line, opening)
    inner = line[opening + 1 : closing]
    return Instruction(
        name=start[2],
        opcode=line[shape_end:opening].strip(),
        arrays=tuple(_arrays(line[start.end() : shape_end])),
        operands=tuple(_NAME.findall(inner)),
        inner=inner,
        attributes=line[closing + 1 :],
        is_root=bool(start[1]),
    )


def _closing(text: str, opening: int) -> int:
    """Returns where the parenthesis closes that opens at a place."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"a parenthesis that is not closed: {text[:200]}")


def _arrays(text: str) -> Iterator[Array]:
    for dtype, dims in _ARRAY.findall(text):
        sizes = (re.sub(r"\D", "", size) for size in dims.split(",") if size)
        yield Array(dtype, tuple(map(int, sizes)))
