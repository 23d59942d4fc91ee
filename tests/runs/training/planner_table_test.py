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
from tests.benchmarks import planner_cases

TABLE = pathlib.Path(__file__).parents[2] / "benchmarks" / "planner_table.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
README = pathlib.Path(__file__).parents[3] / "elm_jax" / "training" / "README.md"
GIB = 2**30
_INT8, _AS = "h100, XXL", "base_dtype int8"


def params():
    kinds = set()  # one of each is compared in fast runs: each takes a second or two
    for row in ROWS:
        marks = [pytest.mark.slow] if row["program"]["kind"] in kinds else []
        kinds.add(row["program"]["kind"])
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
    total = compiled.memory.total
    assert 0.9 * total < planned < 1.1 * total, (
        f"{planned / GIB:.2f} GiB by plan, {total / GIB:.2f} by the compiler"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5litepod-1, XL, fleet, batch 1, 256/128, layer, 8 slots, 8 lanes", 9.24),
        ("v5litepod-1, XL, fleet, batch 1, 256/128, layer, 16 slots, 8 lanes", 11.53),
        ("v5litepod-16, XL, dataset, batch 128, 256/128, layer, 1x16x1 fsdp", 2.50),
        ("v5p-128, XXL, dataset, batch 128, 256/128, layer, 1x64x1 fsdp", 3.16),
        (f"{_INT8}, fleet, batch 1, 256/128, layer, 8 slots, 8 lanes, {_AS}", 27.32),
        (f"{_INT8}, fleet, batch 8, 256/128, layer, 16 slots, 8 lanes, {_AS}", 45.60),
        (f"{_INT8}, prompt, batch 8, 256/128, products, {_AS}", 20.87),
        (f"{_INT8}, ranking, batch 32, 256/128, none, {_AS}", 12.83),
    ],
)
def test_what_the_readme_says_of_tpus_and_int8_is_what_the_plan_says(name, expected):
    [(target, program)] = [
        case[1:] for case in planner_cases.cases() if case[0] == name
    ]
    device = targets.find(target)
    planned = sum(plan.bytes_by_use(program, device.platform).values()) / GIB
    assert planned == pytest.approx(expected, abs=0.005)
    text = README.read_text("utf-8")
    assert f"| {planned:.2f} of {device.memory_bytes / GIB:.2f} |" in text


def test_rows_are_of_the_programs_that_the_cases_have():
    cases = {name: case for name, *case in planner_cases.cases()}
    for row in ROWS:
        program = programs.from_json(row["program"])
        assert [row["target"], program] == cases[row["name"]], row["name"]


def test_the_table_has_all_that_a_plan_is_made_of():
    assert len({row["name"] for row in ROWS}) == len(ROWS) >= 40
    _, models, whats = zip(*(row["name"].split(", ")[:3] for row in ROWS), strict=True)
    assert {"XL", "XXL"} <= set(models)
    assert {"prompt", "dataset", "lora", "fleet", "ranking", "greedy"} <= set(whats)
    of_program = [row["program"] for row in ROWS]
    kinds = {program["kind"] for program in of_program}
    assert kinds == {"step", "fleet step", "ranking", "decoding"}
    slots = {each["num_slots"] for each in of_program if each["kind"] == "fleet step"}
    assert {1, 8, 32} <= slots
    batches = [program["batch"] for program in of_program]
    assert len({batch["batch_size"] for batch in batches}) >= 4
    lengths = {(each["inputs_length"], each["targets_length"]) for each in batches}
    assert len(lengths) >= 4
    remats = {program["model"]["remat"] for program in of_program}
    assert remats == {"none", "products", "layer"}
    rules = {program["devices"]["axis_rules"] for program in of_program}
    assert {"data", "data_model", "fsdp"} <= rules
    chips = {targets.find(row["target"]).chip for row in ROWS}
    assert {"v5e", "v5p", "h100"} <= chips
