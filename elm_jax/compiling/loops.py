"""How often the loops of a compiled program run.

Reference:
  openxla/xla, xla/service/spmd/dot_handler.cc: products whose factors are sent around
  while they are multiplied are loops that count by two.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from elm_jax.compiling import hlo

_WHOLE = re.compile(r"-?\d+")
_Computation = Mapping[str, hlo.Instruction]


class _Number(NamedTuple):
    """A whole number: a constant, or what is at a place of a loop's state and more."""

    place: int | None
    plus: int


def trips(loop: hlo.Instruction, computation: _Computation, module: hlo.Module) -> int:
    """Returns how often a `while` runs its body, at most; 1 if nothing tells.

    XLA writes the number beside the loop where it knows it. Else the condition compares
    a number of the state with a constant, and each turn adds another constant to that
    number; of several such numbers the one that ends the loop first counts. If there is
    no such number, it is assumed that turns count by one up to the greatest constant of
    the condition; the loop may also end earlier.

    Args:
      loop: The `while`.
      computation: Where it is.
      module: The program.
    """
    if match := re.search(r'known_trip_count\D+"?n"?\D+(\d+)', loop.attributes):
        return int(match[1])
    (condition,) = loop.called("condition")
    (body,) = loop.called("body")
    start = computation[loop.operands[0]]
    bounds: list[int] = []
    for place, limit in _limits(module.computations[condition]):
        step = _step(module.computations[body], place)
        if step:
            is_listed = start.opcode == "tuple"
            begun = _number(start.operands[place], computation) if is_listed else None
            start_value = begun.plus if begun and begun.place is None else 0
            bounds.append(max(0, math.ceil((limit - start_value) / step)))
    return min(bounds, default=max(_constants(condition, module), default=1))


def _limits(condition: _Computation) -> Iterator[tuple[int, int]]:
    """Yields places of the state, and what the number at each has to be less than."""
    waiting = [next(each for each in condition.values() if each.is_root)]
    while waiting:
        instruction = waiting.pop()
        if instruction.opcode in ("and", "copy", "bitcast"):
            waiting += [condition[name] for name in instruction.operands]
        if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
            left, right = (_number(name, condition) for name in instruction.operands)
            if left and right and left.place is not None and right.place is None:
                yield left.place, right.plus - left.plus


def _step(body: _Computation, place: int) -> int:
    """Returns the constant that a turn adds to a place of the state; 0 if none."""
    root = next(each for each in body.values() if each.is_root)
    if root.opcode != "tuple":
        return 0
    number = _number(root.operands[place], body)
    return number.plus if number and number.place == place else 0


def _number(name: str, computation: _Computation) -> _Number | None:
    """Returns the place and the constant whose sum a number is; None for others."""
    instruction = computation[name]
    if instruction.opcode == "constant" and _WHOLE.fullmatch(instruction.inner):
        return _Number(None, int(instruction.inner))
    if instruction.opcode == "get-tuple-element":
        state = computation[instruction.operands[0]]
        index = re.search(r"index=(\d+)", instruction.attributes)
        if state.opcode == "parameter" and index:
            return _Number(int(index[1]), 0)
    if instruction.opcode in ("copy", "bitcast", "convert"):
        return _number(instruction.operands[0], computation)
    if instruction.opcode == "add":
        left, right = (_number(each, computation) for each in instruction.operands)
        if left and right and None in (left.place, right.place):
            place = right.place if left.place is None else left.place
            return _Number(place, left.plus + right.plus)
    return None


def _constants(name: str, module: hlo.Module) -> Iterator[int]:
    for instruction in module.computations[name].values():
        if instruction.opcode == "constant" and instruction.inner.isdigit():
            yield int(instruction.inner)
        for callee in instruction.called("calls", "to_apply"):
            yield from _constants(callee, module)
