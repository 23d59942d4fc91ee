"""The programs of runs as data, and lowered for devices."""

import dataclasses
import json

import jax
import pytest

from elm_jax import errors
from elm_jax.runs.compiling import plan, programs, result
from elm_jax.runs.placement import Devices
from tests.runs.compiling.tiny import DECODING, FLEET, RANKING, STEP

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
