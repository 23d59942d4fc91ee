"""Bytes that the instructions of a compiled program read from memory and write."""

from collections.abc import Mapping

from elm_jax.compiling import hlo, messages

_Computation = Mapping[str, hlo.Instruction]

# These move nothing, or what they move is counted where it is begun.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"),
    *("conditional", "call", "after-all", "opt-barrier", "partition-id", "iota"),
    *("replica-id", "domain", "add-dependency", "async-start", "async-update"),
}

# As a TPU's compiler writes that a message has been sent while fusions computed.
_IS_DONE = 'custom_call_target="AsyncCollectiveDone"'


def num_bytes(
    instruction: hlo.Instruction,
    computation: Mapping[str, hlo.Instruction],
    module: hlo.Module,
) -> int:
    """Returns what an instruction reads and writes, each operand once.

    Of an operand of which only a slice is taken, the slice counts, and of a result that
    is another array with a slice written into it likewise: the layers of a stack lie in
    one array, of which each turn of a loop reads and writes one.

    Args:
      instruction: Not within a fusion.
      computation: Where it is.
      module: The program.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0
    if opcode == "fusion":
        return _of_fusion(instruction, computation, module)
    sizes = [computation[name].num_bytes for name in instruction.operands]
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * instruction.num_bytes + sum(sizes[1:])
    if opcode == "dynamic-update-slice":
        return 2 * sizes[1]
    if opcode.endswith("-start"):
        sent = [
            message.num_bytes
            for message in messages.sent_by(instruction, num_devices=1)
        ]
        if sent:
            return sum(sent) + sum(sizes)
        # Of what comes out the first part is what goes in.
        array = instruction.arrays[1 if len(instruction.arrays) > 1 else 0]
        return 2 * array.num_bytes
    return instruction.num_bytes + sum(sizes)


def _of_fusion(
    instruction: hlo.Instruction,
    computation: Mapping[str, hlo.Instruction],
    module: hlo.Module,
) -> int:
    fused = _inside(instruction, module)
    read = 0
    for place, name in enumerate(instruction.operands):
        read += min(computation[name].num_bytes, _read_of(place, fused, module))
    return read + sum(_written(root, fused, module) for root in _roots(fused))


def _inside(instruction: hlo.Instruction, module: hlo.Module) -> _Computation:
    (callee,) = instruction.called("calls")
    return module.computations[callee]


def _read_of(place: int, fused: _Computation, module: hlo.Module) -> int:
    """Returns the bytes of a fusion's operand that are read, also by inner fusions."""
    (parameter,) = (
        part
        for part in fused.values()
        if part.opcode == "parameter" and int(part.inner) == place
    )
    return _read_by_users(parameter, fused, module)


def _read_by_users(
    value: hlo.Instruction, fused: _Computation, module: hlo.Module
) -> int:
    total = 0
    for user in fused.values():
        if value.name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += user.num_bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # written in place
        elif user.opcode in ("bitcast", "reshape") or _receives(user, value):
            total += _read_by_users(user, fused, module)
        elif user.opcode == "tuple" or _is_counted_elsewhere(user):
            continue
        elif user.opcode == "fusion":
            inner = _inside(user, module)
            total += sum(
                _read_of(place, inner, module)
                for place, name in enumerate(user.operands)
                if name == value.name
            )
        else:
            return value.num_bytes
    return total


def _roots(fused: _Computation) -> list[hlo.Instruction]:
    root = next(each for each in fused.values() if each.is_root)
    if root.opcode == "tuple":
        return [fused[name] for name in root.operands]
    return [root]


def _written(root: hlo.Instruction, fused: _Computation, module: hlo.Module) -> int:
    while root.opcode == "bitcast":
        root = fused[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return fused[root.operands[1]].num_bytes
    if root.opcode == "fusion":
        inner = _inside(root, module)
        return sum(_written(inner_root, inner, module) for inner_root in _roots(inner))
    if root.opcode == "parameter" or _is_counted_elsewhere(root):
        return 0
    return root.num_bytes


def _receives(instruction: hlo.Instruction, value: hlo.Instruction) -> bool:
    """Whether an instruction ends a message whose bytes lie in a value already."""
    return _IS_DONE in instruction.attributes and instruction.arrays == value.arrays


def _is_counted_elsewhere(instruction: hlo.Instruction) -> bool:
    """Whether an instruction belongs to a message whose bytes count at its start."""
    return messages.is_continued(instruction) or _IS_DONE in instruction.attributes
