"""LoRAs in the planted world: the experts that routers by token and by input find.

Top-1 accuracy, one seed, chance one of four and an oracle all: of an encoder's words
0.88 by mean readings, 0.61 by gates, 0.43 and 0.41 by norms, 0.42 by Arrow; of inputs
with words of one skill 0.60 by LoGo's norms, 0.50 by its entropies.
"""

import jax
import numpy as np
import pytest

from elm_jax.routing import input_routers
from tests.routing import planted

pytestmark = pytest.mark.slow  # it trains a base and four experts: a minute
CHANCE = 1 / planted.SKILLS
# What each has of an encoder's words at least, where all others are routed rightly.
LEAST = {
    "MeanActivation": 0.8,
    "Gates": 0.5,
    "CalibratedNorm": 0.35,
    "EffectNorm": 0.35,
    "Arrow": 0.35,
}
# And of inputs, by what it looks at. LoGo's place is the first of a feed-forward block:
# behind the attention it finds a quarter.
LEAST_BY_SIGNAL = {"norm": 0.5, "inverse_entropy": 0.4}
NUM_INPUTS = 64


@pytest.fixture(scope="module")
def world():
    return planted.world("lora")


@pytest.fixture(scope="module")
def shares(world):
    """Of each router, the share of an encoder's words with their own expert first."""
    by_router = planted.chosen_beside_oracle(
        world, planted.ROUTERS, planted.records(world)
    )
    return {
        name: np.mean([v for place, v in of.items() if place.startswith("encoder/")])
        for name, of in by_router.items()
    }


@pytest.mark.parametrize("name", [*LEAST])
def test_the_right_lora_gets_the_weight(name, shares):
    assert shares[name] > LEAST[name] > CHANCE


@pytest.mark.parametrize("signal", [*LEAST_BY_SIGNAL])
def test_logo_finds_the_lora_of_inputs_of_one_skill(signal, world):
    router = input_routers.Logo(top_k=1, token="mean", place="mlp/wi_0", signal=signal)
    model, params = planted.mixed(world, router, [{}])
    rng = np.random.default_rng(9)
    skills = np.repeat(np.arange(planted.SKILLS), NUM_INPUTS)
    inputs = np.concatenate(
        [
            planted.rows_of(rng, NUM_INPUTS, [skill])[0]
            for skill in range(planted.SKILLS)
        ]
    )
    weights = jax.jit(input_routers.make_weigh_fn(model, router))(params, inputs)
    share = (np.argmax(weights, axis=-1) == skills).mean()
    assert share > LEAST_BY_SIGNAL[signal] > CHANCE
