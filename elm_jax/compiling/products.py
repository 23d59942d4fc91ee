"""Operations of the matrix products of a compiled program."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from elm_jax.compiling import hlo


def flops(
    instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction]
) -> int:
    """Returns the operations of a product, a multiply-add counting as two, else 0.

    Products are `dot`; `convolution`, which the TPU compiler makes of them; and calls
    of cuBLAS, of which the GPU compiler writes the dimensions beside the call.

    Args:
      instruction: Any instruction.
      computation: Where it is.
    """
    if instruction.opcode == "dot":
        dims = _dims(instruction.attributes, "lhs_contracting_dims")
        return _of_dot(instruction, computation, dims)
    if instruction.opcode == "convolution":
        return _of_convolution(instruction, computation)
    if instruction.opcode == "custom-call":
        return _of_call(instruction, computation)
    return 0


def is_float32(
    instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction]
) -> bool:
    """Returns whether the factors of a product are float32."""
    return all(
        computation[name].arrays[0].dtype == "f32" for name in instruction.operands[:2]
    )


def _of_dot(
    instruction: hlo.Instruction,
    computation: Mapping[str, hlo.Instruction],
    contracted: list[int],
) -> int:
    lhs = computation[instruction.operands[0]].arrays[0]
    depth = math.prod(lhs.dims[dim] for dim in contracted)
    return 2 * instruction.arrays[0].size * depth


def _of_call(
    instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction]
) -> int:
    if "__cublas$" not in instruction.attributes:
        return 0
    start = instruction.attributes.index("backend_config=") + len("backend_config=")
    settings: dict[str, Any] = json.JSONDecoder().raw_decode(
        instruction.attributes, start
    )[0]
    numbers = settings["gemm_backend_config"]["dot_dimension_numbers"]
    contracted = [int(dim) for dim in numbers["lhs_contracting_dimensions"]]
    return _of_dot(instruction, computation, contracted)


def _of_convolution(
    instruction: hlo.Instruction, computation: Mapping[str, hlo.Instruction]
) -> int:
    """Counts only positions where kernel and input meet, not padding or holes.

    A product of many matrices is written as a convolution whose windows meet the input
    once for each matrix.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None, instruction
    lhs, kernel = (computation[name].arrays[0] for name in instruction.operands[:2])
    window = _window(instruction.attributes)
    positions = 1
    for axis, label in enumerate(sorted(re.findall(r"\d", labels[1]))):
        positions *= _meetings(
            size=lhs.dims[labels[1].index(label)],
            out=instruction.arrays[0].dims[labels[3].index(label)],
            kernel=kernel.dims[labels[2].index(label)],
            **{name: values[axis] for name, values in window.items()},
        )
    out = instruction.arrays[0].dims
    rows, features = (out[labels[3].index(label)] for label in "bf")
    depth = kernel.dims[labels[2].index("i")]
    # Features of a group meet only features of the same group, which the kernel's size
    # tells; likewise rows of a batch group.
    return 2 * rows * features * depth * positions


def _window(attributes: str) -> dict[str, list[Any]]:
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}
    if "size" not in fields:
        return {}
    count = len(fields["size"].split("x"))

    def numbers(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * count
        return [int(number) for number in fields[name].split("x")]

    pads = fields.get("pad", "x".join(["0_0"] * count)).split("x")
    return {
        "stride": numbers("stride", 1),
        "pad": [int(pad.split("_")[0]) for pad in pads],
        "left_holes": numbers("lhs_dilate", 1),
        "kernel_holes": numbers("rhs_dilate", 1),
    }


def _meetings(
    *,
    size: int,
    out: int,
    kernel: int,
    stride: int = 1,
    pad: int = 0,
    left_holes: int = 1,
    kernel_holes: int = 1,
) -> int:
    """Returns pairs of an output and a kernel position that meet an input value."""
    length = (size - 1) * left_holes + 1 if size else 0
    count = 0
    for place in range(out):
        first_place = place * stride - pad
        count += sum(
            0 <= first_place + k * kernel_holes < length
            and (first_place + k * kernel_holes) % left_holes == 0
            for k in range(kernel)
        )
    return count


def _dims(attributes: str, name: str) -> list[int]:
    match = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(dim) for dim in match[1].split(",") if dim] if match else []
