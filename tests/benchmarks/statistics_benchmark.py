"""How often a report's statistics miss the truth in worlds where it is known.

Prints, in percent of the worlds with the standard error: how often some way is called
better (by noise: at most 5), how often a planted expert is found (at least 90), how
often each kind of interval holds the truth (93 to 97) and by how many points scores of
choices are too high (0), and how often the choices of a
library are said to fit their datasets, or to beat random ones (made at random: at most
5). Minutes on one core.

    python -m tests.benchmarks.statistics_benchmark --num_worlds=1000
"""

from collections.abc import Iterable

from absl import app, flags

from tests.benchmarks import statistics_worlds

_NUM_WORLDS = flags.DEFINE_integer(
    "num_worlds", 1000, "Worlds of each kind.", lower_bound=1
)

_ONLY = flags.DEFINE_string("only", "", "Worlds whose names contain this.")

WORLDS = {
    "noise: 40 experts, 3 x 120 rows": statistics_worlds.World(40, (1, 1, 1), 120),
    "noise: 100 experts, 4 x 300 rows, 2 prompts": statistics_worlds.World(
        100, (2, 2, 2, 2), 300
    ),
    "planted +3: 40 experts, 11 x 400 rows, 3 prompts": statistics_worlds.World(
        40, (3,) * 11, 400, planted=3.0
    ),
    "planted +3: 40 experts, 11 x 600 rows, 3 prompts": statistics_worlds.World(
        40, (3,) * 11, 600, planted=3.0
    ),
    "3 trainings, 3 points apart: 3 x 200 rows, 2 prompts": statistics_worlds.World(
        2, (2, 2, 2), 200, num_trainings=3, spread=3.0
    ),
    "5 trainings, 3 points apart: 3 x 200 rows, 2 prompts": statistics_worlds.World(
        2, (2, 2, 2), 200, num_trainings=5, spread=3.0
    ),
}
CHOICES = {
    "choice of 2 equal experts: 3 x 200 rows, 2 prompts": statistics_worlds.World(
        2, (2, 2, 2), 200
    ),
    "choice of 5 equal experts: the same": statistics_worlds.World(5, (2, 2, 2), 200),
    "choice of 2 experts 2 points apart: the same": statistics_worlds.World(
        2, (2, 2, 2), 200, apart=2.0
    ),
    "choice of 4 experts 10 points apart: the same": statistics_worlds.World(
        4, (2, 2, 2), 200, rate=80.0, apart=10.0
    ),
    "choice of 40 equal experts: the same": statistics_worlds.World(40, (2, 2, 2), 200),
    "choice of 20 experts, one 3 points better: the same": statistics_worlds.World(
        20, (2, 2, 2), 200, planted=3.0
    ),
    "choice of 5 equal experts, 3 trainings 3 points apart": statistics_worlds.World(
        5, (2, 2, 2), 200, num_trainings=3, spread=3.0
    ),
    "choice of 5 equal experts, 5 trainings 3 points apart": statistics_worlds.World(
        5, (2, 2, 2), 200, num_trainings=5, spread=3.0
    ),
    "choice of 20 experts 1 point apart, 3 trainings 3 points apart": (
        statistics_worlds.World(
            20, (2, 2, 2), 200, rate=70.0, apart=1.0, num_trainings=3, spread=3.0
        )
    ),
    "choice of 2 experts 5 points apart, 5 trainings 2 points apart": (
        statistics_worlds.World(
            2, (2, 2, 2), 200, apart=5.0, num_trainings=5, spread=2.0
        )
    ),
}
LIBRARIES = {
    "choices at random: 20 experts, 11 x 200 rows, 3 prompts": (
        statistics_worlds.Library(
            statistics_worlds.World(20, (3,) * 11, 200, spread=3.0)
        )
    ),
    "choices that find a fit of +10 half of the time: the same": (
        statistics_worlds.Library(
            statistics_worlds.World(20, (3,) * 11, 200, spread=3.0),
            fit=10.0,
            finds=0.5,
        )
    ),
}


def main(_: list[str]) -> None:
    """Prints a line for each kind of world."""
    for name in _selected(WORLDS):
        world = WORLDS[name]
        counts = statistics_worlds.run(world, num_worlds=_NUM_WORLDS.value)
        shares = counts.shares()
        shares.pop("regret" if world.planted else "detected")
        _tell(name, shares)
    for name in _selected(CHOICES):
        world, number = CHOICES[name], _NUM_WORLDS.value
        _tell(name, statistics_worlds.run_choices(world, num_worlds=number))
    for name in _selected(LIBRARIES):
        library, number = LIBRARIES[name], _NUM_WORLDS.value
        _tell(name, statistics_worlds.run_library(library, num_worlds=number))


def _selected(names: Iterable[str]) -> list[str]:
    return [name for name in names if _ONLY.value in name]


def _tell(name: str, shares: dict[str, float]) -> None:
    number = _NUM_WORLDS.value
    shares_text = ", ".join(
        f"{key} {value:+.2f} points"
        if key.endswith("_bias")
        else f"{key} {value:.1f} ± {statistics_worlds.error_of(value, number):.1f}"
        for key, value in shares.items()
    )
    print(f"{name} ({number} worlds): {shares_text}", flush=True)


if __name__ == "__main__":
    app.run(main)
