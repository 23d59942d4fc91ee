"""Small worlds of known truth; benchmarks/statistics_benchmark.py has large ones."""

import pytest

from tests.benchmarks import statistics_worlds

pytestmark = pytest.mark.slow

NUM_WORLDS = 80


def most(share):
    """Returns the greatest percentage that luck makes of this one."""
    return share + 3.3 * statistics_worlds.error_of(share, NUM_WORLDS)


@pytest.fixture(scope="module")
def noise():
    world = statistics_worlds.World(20, (1, 1, 1), 120)
    return statistics_worlds.run(world, num_worlds=NUM_WORLDS).shares()


def test_of_noise_nothing_is_called_better(noise):
    assert noise["called_better"] <= most(5.0)


@pytest.mark.parametrize("kind", ["single", "paired", "chosen", "regret", "together"])
def test_intervals_hold_the_truth(noise, kind):
    assert 100 - noise[kind] <= most(5.0)


@pytest.mark.parametrize(
    "world",
    [
        statistics_worlds.World(2, (1, 1), 120),
        statistics_worlds.World(5, (1, 1), 120),
        statistics_worlds.World(3, (1, 1), 120, apart=15.0),
        statistics_worlds.World(5, (1, 1), 120, num_trainings=3, spread=5.0),
    ],
    ids=["two equal", "five equal", "three apart", "five with three trainings"],
)
def test_intervals_of_choices_hold_the_truth(world):
    held = statistics_worlds.run_choices(world, num_worlds=NUM_WORLDS)
    assert 100 - held["chosen"] <= most(5.0)
    assert 100 - held["each"] <= most(5.0)


def test_a_planted_expert_is_found():
    world = statistics_worlds.World(8, (3,) * 6, 400, planted=6.0)
    shares = statistics_worlds.run(world, num_worlds=20).shares()
    assert shares["detected"] >= 75


def test_intervals_of_three_trainings_hold_the_truth_of_all():
    world = statistics_worlds.World(2, (2, 2), 100, num_trainings=3, spread=4.0)
    held = statistics_worlds.run(world, num_worlds=NUM_WORLDS).shares()
    assert 100 - held["single"] <= most(5.0)
    assert 100 - held["paired"] <= most(5.0)


@pytest.fixture(scope="module")
def at_random():
    world = statistics_worlds.World(12, (2,) * 6, 100, spread=4.0)
    library = statistics_worlds.Library(world)
    return statistics_worlds.run_library(library, num_worlds=NUM_WORLDS)


@pytest.mark.parametrize("test", ["fits", "beats_random"])
def test_choices_at_random_are_seldom_found_to_be_more(at_random, test):
    assert at_random[test] <= most(5.0)


def test_intervals_of_chosen_settings_hold_the_truth(at_random):
    assert 100 - at_random["settings"] <= most(5.0)


def test_choices_that_fit_are_found():
    world = statistics_worlds.World(12, (2,) * 6, 200, spread=2.0)
    library = statistics_worlds.Library(world, fit=20.0, finds=0.9)
    shares = statistics_worlds.run_library(library, num_worlds=20)
    assert shares["fits"] >= 75
    assert shares["beats_random"] >= 75
