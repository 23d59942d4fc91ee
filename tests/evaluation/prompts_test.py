import math

import numpy as np
import pytest

from elm_jax.evaluation import prompts, statistics


def scored(**scores):
    """A model's results on a row, by dataset, for each prompt."""
    return {
        (dataset, f"{dataset}_{place}"): statistics.Column(
            np.arange(2), np.array([value, value])
        )
        for dataset, values in scores.items()
        for place, value in enumerate(values)
    }


def test_the_spread_of_prompts_is_a_mean_over_datasets():
    spread = prompts.spread(scored(a=[10.0, 20.0, 30.0, 40.0], b=[50.0]))
    assert spread == (37.5, 37.5, (17.5 + 50) / 2, (32.5 + 50) / 2, 30.0, "a_0")


def test_an_order_that_all_prompts_share_outlasts_a_new_one():
    ours, rival = scored(a=[60.0, 61.0, 62.0]), scored(a=[50.0, 51.5, 52.0])
    assert prompts.chance_of_order(ours, rival) == 1.0
    assert prompts.chance_of_order(rival, ours) == 1.0  # the order, not who wins
    assert prompts.chance_of_order(ours, ours) == 0.5


def test_an_order_that_a_prompt_disagrees_with_is_less_likely():
    ours, rival = scored(a=[60.0, 60.0, 60.0, 45.0]), scored(a=[50.0] * 4)
    assert prompts.chance_of_order(ours, rival) == 0.75
    # Another dataset's single prompt takes part in the order, and is not left out.
    more = {("b", "b_0"): scored(b=[100.0])["b", "b_0"]}
    base = {("b", "b_0"): scored(b=[0.0])["b", "b_0"]}
    assert prompts.chance_of_order(ours | more, rival | base) == 0.75


def test_single_prompts_tell_nothing_of_a_new_one():
    columns = scored(a=[60.0], b=[50.0])
    assert math.isnan(prompts.chance_of_order(columns, columns))


def test_the_chance_of_an_order_is_how_often_it_holds():
    rng = np.random.default_rng(0)
    chances, held = [], []
    for _ in range(2000):
        truth = rng.normal(0, 3)
        gaps = truth + rng.normal(0, 4, 6)
        ours, rival = scored(a=list(gaps[:5])), scored(a=[0.0] * 5)
        chances.append(prompts.chance_of_order(ours, rival))
        held.append(np.sign(gaps[5]) == np.sign(gaps[:5].mean()))
    assert np.mean(chances) == pytest.approx(np.mean(held), abs=0.02)
