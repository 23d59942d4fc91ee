"""Races lose the best expert seldom, save work, and never drop what is as good."""

import numpy as np
import pytest

from elm_jax.evaluation import racing
from tests.benchmarks.racing_benchmark import run_race, simulate


@pytest.mark.parametrize("num_rows", [1, 31, 63, 64, 300, 5000])
def test_rounds_double_up_to_half_of_the_rows(num_rows):
    ends = racing.Racing(first_rows=32).rounds(num_rows)
    assert all(late == 2 * early for early, late in zip(ends, ends[1:], strict=False))
    assert bool(ends) == (num_rows >= 64)
    if ends:
        assert ends[0] == 32
        assert num_rows / 4 < ends[-1] <= num_rows / 2


def test_the_best_of_many_that_are_nearly_as_good_is_lost_in_at_most_one_race_of_20():
    rng = np.random.default_rng(0)
    spec = racing.Racing(chance_of_losing=0.05, first_rows=16)
    lost, num_races = 0, 200
    for _ in range(num_races):
        values = simulate(rng, rng.uniform(0.4, 0.6, 50), 256)
        left, _ = run_race(values, spec)
        means = values.mean(axis=1)
        lost += means[left].max() < means.max()
    assert lost <= 0.05 * num_races


def test_a_race_that_a_good_expert_runs_saves_most_of_the_work():
    rng = np.random.default_rng(1)
    values = simulate(rng, [0.9, *rng.uniform(0.3, 0.5, 99)], 2000)
    left, share = run_race(values, racing.Racing())
    assert left.tolist() == [0]
    assert share < 0.12


def test_experts_that_answer_alike_stay_together():
    values = np.tile(np.random.default_rng(2).integers(0, 2, 64), (5, 1)) * 1.0
    stay = racing.Racing().staying(values, num_experts=5, num_rows=128)
    assert stay.all()


def test_the_sign_test_is_that_of_hand_computation():
    # 12 wins and no loss have a chance of 2 ** -12; one opponent, one round.
    leader, loser = np.ones(12), np.zeros(12)
    spec = racing.Racing(chance_of_losing=2.0**-12.1, first_rows=12)
    assert spec.rounds(24) == (12,)
    values = np.stack([leader, loser])
    assert spec.staying(values, num_experts=2, num_rows=24).tolist() == [True, True]
    stricter = racing.Racing(chance_of_losing=2.0**-11.9, first_rows=12)
    assert stricter.staying(values, num_experts=2, num_rows=24).tolist() == [
        True,
        False,
    ]


def test_a_fair_draw_counts_against_the_leader():
    leader, drawing = np.ones(64), np.full(64, 0.5)
    values = np.stack([leader, drawing])
    assert racing.Racing().staying(values, num_experts=2, num_rows=128).all()


def test_all_experts_have_one_order_of_rows():
    first, second = (racing.order([3, 5, 9, 11], seed=1) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert sorted(first) == [3, 5, 9, 11]


def test_the_best_mean_over_trainings_is_lost_in_at_most_one_race_of_20():
    rng = np.random.default_rng(3)
    spec = racing.Racing(first_rows=16)
    lost, num_races, dropped = 0, 200, 0
    for _ in range(num_races):
        rates = rng.uniform(0.4, 0.7, 20)
        each = [simulate(rng, rates + rng.normal(0, 0.05, 20), 256) for _ in range(3)]
        values = np.mean(each, axis=0)
        left, _ = run_race(values, spec, rounding=rng.random(256))
        dropped += 20 - len(left)
        means = values.mean(axis=1)
        lost += means[left].max() < means.max()
    assert lost <= 0.05 * num_races
    assert dropped > num_races  # so that there was something to lose


def test_a_part_of_a_row_counts_as_a_whole_one_with_that_chance():
    # The leader has a third more on every row: about a third of the rows are won.
    values = np.stack([np.ones(300), np.full(300, 2 / 3)])
    rounding = np.random.default_rng(0).random(300)
    wins = int((np.floor(np.round(values[0] - values[1], 9) + rounding) > 0).sum())
    assert 75 < wins < 125
    spec = racing.Racing(chance_of_losing=2.0 ** -(wins + 0.1), first_rows=300)
    assert spec.staying(values, num_experts=2, num_rows=600, rounding=rounding).all()
    spec = racing.Racing(chance_of_losing=2.0 ** -(wins - 0.1), first_rows=300)
    assert not spec.staying(
        values, num_experts=2, num_rows=600, rounding=rounding
    ).all()
