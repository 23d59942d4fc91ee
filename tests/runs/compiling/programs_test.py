"""The programs of runs as data, and lowered for devices."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from elm_jax import errors, float32_sums
from elm_jax.peft import expert_parts
from elm_jax.runs.compiling import plan, programs, result
from elm_jax.runs.placement import Devices
from tests.runs.compiling.tiny import DECODING, FLEET, RANKING, STEP, TINY

PROGRAMS = {each.kind: each for each in (STEP, FLEET, RANKING, DECODING)}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_is_the_same_after_json(kind):
    text = json.dumps(PROGRAMS[kind].to_json())
    assert programs.from_json(json.loads(text)) == PROGRAMS[kind]


@pytest.mark.slow
def test_what_a_program_is_given_is_what_the_plan_says():
    compiled = programs.lower(RANKING, jax.devices()).compile()
    parameters = plan.bytes_by_use(RANKING, "cpu")["parameters"]
    tokens = compiled.memory_analysis().argument_size_in_bytes - parameters
    assert tokens == 16 // 4 * (4 * 12 + 3 * (4 * 8 + 1))  # of one device


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["step", "fleet step"])
def test_the_state_of_a_step_takes_the_place_of_the_last_one(kind):
    lowered = programs.lower(PROGRAMS[kind], jax.devices())
    (state, *others), _ = lowered.args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(others))


@pytest.fixture
def types_of_sums(tmp_path):
    """Returns dtypes of what a program's devices sum, before a CPU's own passes.

    A CPU sums nothing in bfloat16: its compiler widens what was to be summed so.
    """

    def types(lowered):
        lowered.compile(
            compiler_options={
                "xla_dump_to": f"{tmp_path}",
                "xla_dump_hlo_pass_re": "spmd-partitioning",
            }
        )
        (file,) = tmp_path.glob("*.after_spmd-partitioning.*")
        text = file.read_text()
        file.unlink()
        sums = re.findall(r" = (.*?) all-reduce(?:-start)?\(", text)
        return {dtype for each in sums for dtype in re.findall(r"\b[a-z]+\d+\b", each)}

    return types


@pytest.mark.slow
def test_devices_sum_gradients_in_float32_whatever_the_compute_dtype(types_of_sums):
    model = dataclasses.replace(
        TINY, dtype="bfloat16", num_encoder_layers=1, num_decoder_layers=1
    )
    step = dataclasses.replace(
        STEP,
        model=model,
        devices=Devices(num_data=8, num_model=1, axis_rules="data"),
    )
    dataset = dataclasses.replace(
        step, adapter=None, trainable_pattern=expert_parts.DATASET_EXPERT
    )
    for program in (step, dataset):
        sums = types_of_sums(programs.lower(program, jax.devices()))
        assert sums - {"s32", "u32"} == {"f32"}


@pytest.mark.parametrize(
    ("product", "dtype"),
    [
        (float32_sums.product, "f32"),
        (lambda rows, kernel: jnp.dot(rows, kernel.astype(rows.dtype)), "bf16"),
    ],
    ids=["ours", "a cast before the sum"],
)
def test_where_the_cast_comes_before_the_sum_devices_would_sum_bfloat16(
    types_of_sums, product, dtype
):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, kernel = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in (
            ((16, 8), jnp.bfloat16, PartitionSpec("data")),
            ((8, 8), jnp.float32, PartitionSpec()),
        )
    )

    def total(kernel, rows):
        return jnp.sum(product(rows, kernel).astype(jnp.float32) ** 2)

    assert types_of_sums(jax.jit(jax.grad(total)).lower(kernel, rows)) == {dtype}


@pytest.mark.slow
def test_a_batch_in_parts_takes_less_for_what_is_computed():
    """Activations of four parts are a quarter; sums of gradients come beside them."""
    batch = dataclasses.replace(STEP.batch, batch_size=64)
    alone = Devices(num_data=1, num_model=1, axis_rules="data")
    step = dataclasses.replace(STEP, batch=batch, devices=alone)
    sizes = {}
    for num_parts in (1, 4):
        program = dataclasses.replace(step, num_parts=num_parts)
        compiled = programs.lower(program, jax.devices()[:1]).compile()
        uses = plan.bytes_by_use(program, "cpu")
        sizes[num_parts] = compiled.memory_analysis().temp_size_in_bytes, uses
    (whole, uses), (in_parts, uses_in_parts) = sizes[1], sizes[4]
    assert in_parts < 0.5 * whole
    assert uses_in_parts["activations"] < 0.5 * uses["activations"]
    assert uses_in_parts["gradients"] == 2 * uses["gradients"]


def test_parts_that_devices_do_not_divide_are_refused_with_the_batch_that_they_do():
    program = dataclasses.replace(STEP, num_parts=8)
    with pytest.raises(errors.ConfigError, match="16 rows in 8 parts for 4") as caught:
        programs.lower(program, jax.devices())
    assert "BATCH_SIZE to 32" in str(caught.value)


@pytest.mark.slow
def test_decoding_is_lowered_with_its_beams():
    assert DECODING.num_beams == 2
    text = programs.lower(DECODING, jax.devices()).as_text()
    assert "16x2x8xi32" in text  # tokens of all hypotheses


def test_a_result_is_the_same_after_json():
    memory = result.Memory(arguments=5, outputs=4, aliased=3, temporaries=2, code=1)
    compiled = result.Compiled(memory=memory, compile_secs=1.5)
    assert memory.total == 5 + 4 - 3 + 2 + 1
    assert (
        result.from_json(json.loads(json.dumps(result.to_json(compiled)))) == compiled
    )
