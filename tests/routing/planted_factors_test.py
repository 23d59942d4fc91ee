"""(IA)3 in the planted world: routers that know what experts read find the right one.

Top-1 accuracy among an encoder's words, one seed, chance one of four and an oracle all:
0.87 by mean readings, 0.81 by gates, 0.22 and 0.18 by norms. A factor's effect is as
great as the number that it multiplies, whoever's word it is.
"""

import numpy as np
import pytest

from tests.routing import planted

pytestmark = pytest.mark.slow  # it trains a base and four experts: half a minute
CHANCE = 1 / planted.SKILLS
# What each has of an encoder's words at least, where all others are routed rightly.
LEAST = {"MeanActivation": 0.7, "Gates": 0.65}


@pytest.fixture(scope="module")
def shares():
    """Of each router, the share of an encoder's words with their own expert first."""
    world = planted.world("ia3")
    by_router = planted.chosen_beside_oracle(
        world, planted.routers_of(world.spec), planted.records(world)
    )
    return {
        name: np.mean([v for place, v in of.items() if place.startswith("encoder/")])
        for name, of in by_router.items()
    }


@pytest.mark.parametrize("name", [*LEAST])
def test_the_right_factors_get_the_weight(name, shares):
    assert shares[name] > LEAST[name] > CHANCE


@pytest.mark.parametrize("name", ["EffectNorm", "CalibratedNorm"])
def test_norms_of_factors_find_them_no_better_than_chance(name, shares):
    assert shares[name] < CHANCE * 1.2
