"""In the planted world, the expert that a word needs gets the weight.

`tests/benchmarks/planted_benchmark.py` has the figures of all kinds of adapters.
"""

import numpy as np
import pytest

from elm_jax.routing import token_routers
from tests.routing import planted

pytestmark = pytest.mark.slow  # it trains a base and four experts: half a minute
CHANCE = 1 / planted.SKILLS
# What each has of an encoder's words at least; an oracle has all, chance a quarter.
LEAST = {
    "MeanActivation": 0.95,
    "Gates": 0.9,
    "EffectNorm": 0.7,
    "CalibratedNorm": 0.6,
    "Arrow": 0.4,
}


@pytest.fixture(scope="module")
def world():
    return planted.world("parallel")


@pytest.fixture(scope="module")
def recorded(world):
    return planted.records(world)


@pytest.fixture(scope="module")
def shares(world, recorded):
    """Of each router, the share of an encoder's words with their own expert first."""
    by_router = planted.chosen_beside_oracle(world, planted.ROUTERS, recorded)
    return {
        name: np.mean(
            [v for place, v in by_place.items() if place.startswith("encoder/")]
        )
        for name, by_place in by_router.items()
    }


def test_no_expert_alone_solves_mixed_inputs_and_their_oracle_does(world, recorded):
    even = planted.mixed(world, token_routers.Fixed(), recorded)
    oracle = planted.mixed(world, planted.oracle_of(world), recorded)
    assert planted.tried(world, *oracle).right > 0.95
    assert planted.tried(world, *even).right < 0.5
    _, answers, _, owners = planted.mixed_rows(world)
    assert max(np.mean(owners == skill) for skill in range(planted.SKILLS)) < 0.3
    assert answers.shape[0] == len(owners)


@pytest.mark.parametrize("name", [*LEAST])
def test_the_right_expert_gets_the_weight(name, shares):
    assert shares[name] > LEAST[name] > CHANCE


def test_gates_answer_mixed_inputs_nearly_as_the_oracle(world, recorded):
    outcome = planted.tried(
        world, *planted.mixed(world, planted.ROUTERS["Gates"], recorded)
    )
    assert outcome.right > 0.8


def test_gates_of_other_experts_choose_wrongly(world, recorded):
    """A control: each expert has the gates of the next one."""
    moved = [*recorded[1:], recorded[0]]
    by_router = planted.chosen_beside_oracle(
        world, {"Gates": planted.ROUTERS["Gates"]}, moved
    )
    of_inputs = [v for place, v in by_router["Gates"].items() if "encoder/" in place]
    assert np.mean(of_inputs) < CHANCE / 2
