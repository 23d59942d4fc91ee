"""The programs of runs as data, and lowered for devices."""

import json

import jax
import pytest

from elm_jax.runs.compiling import plan, programs, result
from tests.runs.compiling.tiny import DECODING, FLEET, RANKING, STEP

PROGRAMS = {each.kind: each for each in (STEP, FLEET, RANKING, DECODING)}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_is_the_same_after_json(kind):
    text = json.dumps(PROGRAMS[kind].to_json())
    assert programs.from_json(json.loads(text)) == PROGRAMS[kind]


def test_what_a_program_is_given_is_what_the_plan_says():
    compiled = programs.lower(RANKING, jax.devices()).compile()
    parameters = plan.bytes_by_use(RANKING, "cpu")["parameters"]
    tokens = compiled.memory_analysis().argument_size_in_bytes - parameters
    assert tokens == 16 // 4 * (4 * 12 + 3 * (4 * 8 + 1))  # of one device


@pytest.mark.parametrize("kind", ["step", "fleet step"])
def test_the_state_of_a_step_takes_the_place_of_the_last_one(kind):
    lowered = programs.lower(PROGRAMS[kind], jax.devices())
    (state, *others), _ = lowered.args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(others))


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
