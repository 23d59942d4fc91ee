"""What XL and XXL take on accelerators, against what was aimed at.

    python tests/benchmarks/xl_figures.py

Prints a JSON line for each aim: bytes of a device by plan and by its compiler, of the
limit, and the operations of a step as multiples of those of `remat = none`. Nothing is
compiled: compilers were asked for planner_table.jsonl, which tells their bytes and
operations.

Compilers recompute by themselves where a program would fill a device, also with
`remat = none`. So all operations are compared with those that the plan counts for
`none`, in which nothing is computed twice.
"""

import dataclasses
import json
import pathlib
import sys

import jax

from elm_jax.compiling import targets
from elm_jax.model import cost
from elm_jax.runs.compiling import plan, programs, result

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.benchmarks import planner_table  # noqa: E402 - run as a program, too

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Aim:
    """One step that should fit into a device's memory.

    Attributes:
      aim: The aim in words.
      row: The step's name in the table.
      most_gib: Memory of a device; None for what programs get of a device.
      most_operations: As a multiple of those of `remat = none`; None for any.
    """

    aim: str
    row: str
    most_gib: float | None = None
    most_operations: float | None = None


AIMS = (
    Aim(
        "XL prompt expert, batch 32, at most 35 GiB of an H100 with under 5 % more"
        " operations",
        "h100, XL, prompt, batch 32, 256/128, products",
        most_gib=35.0,
        most_operations=1.05,
    ),
    Aim(
        "XL fleet of 8 lanes, batch 1 each, on one v5e chip",
        "v5litepod-1, XL, fleet, batch 1, 256/128, layer, 8 slots, 8 lanes",
    ),
    Aim(
        "XL dataset experts, batch 128, on v5e 4x4",
        "v5litepod-16, XL, dataset, batch 128, 256/128, layer, 1x16x1 fsdp",
    ),
    Aim(
        "XXL dataset experts on v5p 4x4x4",
        "v5p-128, XXL, dataset, batch 128, 256/128, layer, 1x64x1 fsdp",
    ),
    Aim(
        "XXL fleet of prompt experts on an int8 base on one card of 80 GB",
        "h100, XXL, fleet, batch 1, 256/128, layer, 8 slots, 8 lanes, base_dtype int8",
    ),
)


def figures(aim, row):
    """Returns what is told of an aim.

    Args:
      aim: An Aim.
      row: Its row of the table.
    """
    target = targets.find(row["target"])
    program = programs.from_json(row["program"])
    compiled = result.from_json(row["compiled"])
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention mixes them
        planned = sum(plan.bytes_by_use(program, target.platform).values()) / _GIB
    limit = target.memory_bytes / _GIB if aim.most_gib is None else aim.most_gib
    by_compiler = None if compiled.memory is None else compiled.memory.total / _GIB
    plain = operations(program, "none")
    by_plan = operations(program, program.model.remat) / plain
    counted = None
    if compiled.work is not None:
        counted = compiled.work.flops * program.devices.count / plain
    most = aim.most_operations
    return {
        "aim": aim.aim,
        "row": aim.row,
        "limit_gib": round(limit, 2),
        "plan_gib": round(planned, 2),
        "compiler_gib": None if by_compiler is None else round(by_compiler, 2),
        "operations_by_plan": round(by_plan, 3),
        "operations_by_compiler": None if counted is None else round(counted, 3),
        "is_met": by_compiler is not None
        and max(by_compiler, planned) <= limit
        and (most is None or max(by_plan, counted or by_plan) < most),
    }


def operations(program, remat):
    """Returns those of a step on all devices, as the plan counts them.

    Args:
      program: A step of an expert or of a fleet, of which each lane takes a batch.
      remat: What is recomputed, instead of what the program says.
    """
    trained, frozen = program.params
    model = dataclasses.replace(program.model, remat=remat)
    lane_flops = cost.train_flops(
        model, program.batch, trainable=trained, frozen=frozen
    )
    return lane_flops * program.num_lanes


def main():
    """Prints a line for each aim."""
    rows = planner_table.read_table()
    for aim in AIMS:
        print(json.dumps(figures(aim, rows[aim.row])), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
