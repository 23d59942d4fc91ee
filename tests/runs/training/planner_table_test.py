"""The planner's bytes against those of the compilers of accelerators.

The table has what compilers said (`tests/benchmarks/planner_table.py` made it); here
nothing is compiled.
"""

import json
import pathlib

import jax
import pytest

from elm_jax.compiling import targets
from elm_jax.runs.compiling import plan, programs, result

TABLE = pathlib.Path(__file__).parents[2] / "benchmarks" / "planner_table.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
GIB = 2**30
_EVERY = 6  # rows of which one is compared in fast runs: each takes a second or two


def params():
    for number, row in enumerate(ROWS):
        marks = [] if number % _EVERY == 0 else [pytest.mark.slow]
        yield pytest.param(row, marks=marks, id=row["name"])


@pytest.mark.parametrize("row", params())
def test_the_plan_is_within_a_tenth_of_the_compiler(row):
    program = programs.from_json(row["program"])
    target = targets.find(row["target"])
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention mixes them
        planned = sum(plan.bytes_by_use(program, target.platform).values())
    compiled = result.from_json(row["compiled"])
    if compiled.memory is None:
        assert planned > 0.9 * target.memory_bytes
        return
    found = compiled.memory.total
    assert 0.9 * found < planned < 1.1 * found, (
        f"{planned / GIB:.2f} GiB by plan, {found / GIB:.2f} by the compiler"
    )


def test_the_table_has_all_that_a_plan_is_made_of():
    kinds = {row["program"]["kind"] for row in ROWS}
    remats = {row["program"]["model"]["remat"] for row in ROWS}
    rules = {row["program"]["devices"]["axis_rules"] for row in ROWS}
    assert kinds == {"step", "fleet step", "ranking", "decoding"}
    assert {"data", "data_model", "fsdp"} <= rules
    assert remats == {"none", "products", "layer"}
    assert {"cuda", "tpu"} == {targets.find(row["target"]).platform for row in ROWS}
