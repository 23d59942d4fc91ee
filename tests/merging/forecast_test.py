"""What a comparison forecasts of merges is what they lose, where that is planted.

`tests/benchmarks/merge_forecast_benchmark.py` measures it with trained experts.
"""

import itertools

import numpy as np
import pytest

from elm_jax.merging import averages, comparing
from tests.benchmarks import merge_forecast_benchmark

INPUTS, OUTPUTS, ROWS = 16, 6, 40


class Linear:
    """Experts whose kernels changes what rows of their own tasks give.

    A change is what gradient descent makes of rows: `X' G`, X what is read and G what
    the outputs should change by.
    """

    def __init__(self, alike, seed=0):
        """Makes an expert for each share of rows that are common to all."""
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(ROWS, 3)) @ rng.normal(size=(3, INPUTS))
        common_map = rng.normal(size=(INPUTS, OUTPUTS))
        self.base = {"w": rng.normal(size=(INPUTS, OUTPUTS))}
        self.rows, self.experts = [], []
        for share in alike:
            own_rows = rng.normal(size=(ROWS, 3)) @ rng.normal(size=(3, INPUTS))
            rows = share * common + (1 - share) * own_rows
            expert_map = share * common_map + (1 - share) * rng.normal(
                size=common_map.shape
            )
            self.add(rows, rows.T @ (rows @ expert_map) / ROWS)

    def add(self, rows, change):
        """Adds an expert with its rows."""
        self.rows.append(rows)
        self.experts.append({"w": self.base["w"] + change})

    def losses(self):
        """Squared errors [experts, experts] of means of two on the rows of both.

        As a share of those of the base.
        """
        count = len(self.experts)
        lost = np.full((count, count), np.nan)
        for pair in itertools.combinations(range(count), 2):
            merged = averages.Uniform().merge([self.experts[n] for n in pair]).params
            errors, of_base = (
                [
                    np.square(self.rows[n] @ (kernel - self.experts[n]["w"])).sum()
                    for n in pair
                ]
                for kernel in (merged["w"], self.base["w"])
            )
            lost[pair] = lost[pair[::-1]] = sum(errors) / sum(of_base)
        return lost

    def forecast(self):
        """What a comparison forecasts for each pair."""
        return comparing.compare(self.experts, self.base, {}).forecast


def test_equal_experts_lose_nothing_and_opposite_ones_all():
    world = Linear([0.5])
    rows, change = world.rows[0], world.experts[0]["w"] - world.base["w"]
    world.add(rows, change)
    world.add(rows, -change)
    for values in (world.forecast(), world.losses()):
        assert values[0, 1] == pytest.approx(0.0, abs=1e-12)
        assert values[0, 2] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_ranked_as_they_lose_where_some_read_more_alike(seed):
    world = Linear(np.linspace(0.05, 0.95, 8), seed)
    forecast, lost = world.forecast(), world.losses()
    value, low, high = merge_forecast_benchmark.correlation(forecast, lost)
    print(f"rank correlation {value}, {low} to {high} by experts")
    assert 0.7 < value <= 1.0
    assert -1.0 <= low <= value <= high <= 1.0


def test_the_rank_correlation_of_a_forecast_has_the_sign_of_its_order():
    lost = Linear(np.linspace(0.05, 0.95, 6)).losses()
    assert merge_forecast_benchmark.correlation(lost, lost)[0] == 1.0
    assert merge_forecast_benchmark.correlation(-lost, lost)[0] == -1.0
