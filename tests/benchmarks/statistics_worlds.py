"""Worlds whose truth is known, to see how often a report's statistics miss it."""

import dataclasses
import math

import numpy as np

from elm_jax.evaluation import (
    comparisons,
    controls,
    cross_fitting,
    estimates,
    statistics,
)


@dataclasses.dataclass(frozen=True)
class World:
    """A library and three ways without choice, each right on each row by chance.

    Attributes:
      num_experts: Single experts, all as good as the others but for the two below.
      prompts: Prompts of each dataset.
      num_rows: Rows of each dataset.
      rate: Chance of being right, in percent.
      planted: Points by which the first expert is better.
      apart: Points by which each expert is worse than the one before.
      num_trainings: Of each expert and each way.
      spread: Standard deviation of trainings, in points.
    """

    num_experts: int
    prompts: tuple[int, ...]
    num_rows: int
    rate: float = 50.0
    planted: float = 0.0
    apart: float = 0.0
    num_trainings: int = 1
    spread: float = 0.0

    def rate_of(self, place: int) -> float:
        """Returns an expert's chance of being right, in percent."""
        return self.rate + self.planted * (place == 0) - self.apart * place

    def truth(self, chosen: cross_fitting.Chosen) -> float:
        """Returns what a cross-fitted choice is worth: the mean of whom folds chose."""
        rates = [self.rate_of(int(name[1:])) for name, _ in chosen.counts]
        return float(np.average(rates, weights=[n for _, n in chosen.counts]))

    def draw_trainings(
        self, rng: np.random.Generator, rate: float
    ) -> list[statistics.Columns]:
        """Returns results of a model's trainings, some of them luckier than others."""
        return [
            self.draw(rng, rate + self.spread * rng.normal())
            for _ in range(self.num_trainings)
        ]

    def draw(self, rng: np.random.Generator, rate: float) -> statistics.Columns:
        """Returns results of a model; a row is as hard under all its prompts."""
        ids = np.arange(self.num_rows)
        columns: dict[statistics.Key, statistics.Column] = {}
        for place, number in enumerate(self.prompts):
            shared = rng.random(self.num_rows)
            for prompt in range(number):
                is_shared = rng.random(self.num_rows) < 0.5
                ranks = np.where(is_shared, shared, rng.random(self.num_rows))
                values = 100.0 * (ranks < rate / 100)
                key = (f"d{place}", f"d{place}_{prompt:03d}")
                columns[key] = statistics.Column(ids, values)
        return columns


@dataclasses.dataclass
class Counts:
    """In how many worlds something was so.

    Attributes:
      worlds: Number of worlds.
      called_better: Some way was stressed, or better than the first one by intervals
        that hold all at once.
      detected: The first expert was chosen, and better than the first way by the
        interval of the cross-fitted choice.
      single: The interval of a mean held the truth.
      paired: That of a difference.
      chosen: That of a cross-fitted choice of one expert.
      each: That of one for each prompt.
      regret: That of its difference from a way that did not choose, where no expert is
        better than another.
      together: All simultaneous intervals did.
    """

    worlds: int = 0
    called_better: int = 0
    detected: int = 0
    single: int = 0
    paired: int = 0
    chosen: int = 0
    each: int = 0
    regret: int = 0
    together: int = 0

    def shares(self) -> dict[str, float]:
        """Returns the counts in percent of the worlds."""
        counts = dataclasses.asdict(self)
        number = counts.pop("worlds")
        return {name: 100.0 * count / number for name, count in counts.items()}


def run(world: World, *, num_worlds: int, seed: int = 0) -> Counts:
    """Returns how often statistics were right in so many worlds."""
    counts = Counts(worlds=num_worlds)
    for trial in range(num_worlds):
        rng = np.random.default_rng([seed, trial])
        draws = estimates.Draws(seed=trial)
        _judge(world, rng, draws, counts)
    return counts


def run_choices(world: World, *, num_worlds: int, seed: int = 0) -> dict[str, float]:
    """Returns how often intervals of cross-fitted choices held the truth, in percent.

    Of a choice of one expert (`chosen`), and of one for each prompt (`each`); and by
    how many points their scores were too high, on average (`chosen_bias`, `each_bias`).
    """
    counts = Counts(worlds=num_worlds)
    bias = {"chosen_bias": 0.0, "each_bias": 0.0}
    for trial in range(num_worlds):
        rng = np.random.default_rng([seed, trial])
        experts = _experts(world, rng)
        fitted = cross_fitting.cross_fit(experts, estimates.Draws(seed=trial))
        if fitted is not None:
            _judge_choices(world, fitted, counts)
            for name, choice in zip(bias, fitted, strict=True):
                bias[name] += (choice.estimate.mean - world.truth(choice)) / num_worlds
    shares = counts.shares()
    return {name: shares[name] for name in ("chosen", "each")} | bias


def _experts(
    world: World, rng: np.random.Generator
) -> dict[str, list[statistics.Columns]]:
    return {
        f"e{place:04d}": world.draw_trainings(rng, world.rate_of(place))
        for place in range(world.num_experts)
    }


def _judge_choices(
    world: World, fitted: cross_fitting.CrossFitted, counts: Counts
) -> None:
    single = fitted.best_single.estimate.interval
    counts.chosen += single.low <= world.truth(fitted.best_single) <= single.high
    each = fitted.best_per_prompt.estimate.interval
    counts.each += each.low <= world.truth(fitted.best_per_prompt) <= each.high


def _judge(
    world: World, rng: np.random.Generator, draws: estimates.Draws, counts: Counts
) -> None:
    experts = _experts(world, rng)
    ways = []
    for name in ("multitask", "retrieved", "merged"):
        trainings = world.draw_trainings(rng, world.rate)
        ways.append(estimates.estimate(trainings, draws, who=name))
    fitted = cross_fitting.cross_fit(experts, draws)
    truth = world.rate
    if fitted is not None:
        _judge_choices(world, fitted, counts)
        first = sum(n for name, n in fitted.best_single.counts if name == "e0000")
        share = first / sum(n for _, n in fitted.best_single.counts)
        gap = (fitted.best_single.estimate - ways[0]).interval
        regret = (fitted.best_per_prompt.estimate - ways[1]).interval
        counts.regret += regret.low <= 0 <= regret.high
        counts.detected += share == 1 and gap.low > 0
        ways += [fitted.best_single.estimate, fitted.best_per_prompt.estimate]
    compared = comparisons.against(ways[0], {str(i): w for i, w in enumerate(ways[1:])})
    intervals = [comparison.simultaneous for comparison in compared.values()]
    is_better = any(interval.low > 0 for interval in intervals)
    counts.called_better += is_better or any(comparisons.not_worse(ways))
    of_retrieved, gap = ways[1].interval, compared["0"].gap
    counts.single += of_retrieved.low <= truth <= of_retrieved.high
    counts.paired += gap.low <= 0 <= gap.high
    several = comparisons.against(ways[0], {"1": ways[1], "2": ways[2]})
    counts.together += all(
        comparison.simultaneous.low <= 0 <= comparison.simultaneous.high
        for comparison in several.values()
    )


@dataclasses.dataclass(frozen=True)
class Library:
    """Experts of which one is chosen for each dataset, and settings of a strategy.

    Attributes:
      of: Experts, prompts and rows; experts are not all as good: see `spread`.
      fit: Points by which one expert is better on each dataset than elsewhere.
      finds: Chance that the choice finds it; else, one is chosen at random.
      shared: Share of the answers that settings have in common.
      num_settings: All equally good.
    """

    of: World
    fit: float = 0.0
    finds: float = 0.0
    shared: float = 0.8
    num_settings: int = 5


@dataclasses.dataclass
class LibraryCounts(Counts):
    """In how many worlds something was so.

    Attributes:
      fits: The choice was found to fit its datasets, by shuffling, at 5 %.
      beats_random: It was found better than random choices, at 5 %.
      settings: The interval of a cross-fitted setting held the truth.
    """

    fits: int = 0
    beats_random: int = 0
    settings: int = 0


def run_library(
    library: Library, *, num_worlds: int, seed: int = 0
) -> dict[str, float]:
    """Returns how often controls of a library were so, in percent of the worlds."""
    counts = LibraryCounts(worlds=num_worlds)
    for trial in range(num_worlds):
        rng = np.random.default_rng([seed, trial])
        _judge_library(library, rng, estimates.Draws(seed=trial), counts)
    shares = counts.shares()
    return {name: shares[name] for name in ("fits", "beats_random", "settings")}


def _judge_library(
    library: Library,
    rng: np.random.Generator,
    draws: estimates.Draws,
    counts: LibraryCounts,
) -> None:
    world = library.of
    quality = world.rate + world.spread * rng.normal(size=world.num_experts)
    fitting = rng.permutation(world.num_experts)[: len(world.prompts)]
    names = [f"e{place:04d}" for place in range(world.num_experts)]
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for place, name in enumerate(names):
        usual, best = (
            world.draw(rng, rate)
            for rate in (quality[place], quality[place] + library.fit)
        )
        at = [f"d{d}" for d, owner in enumerate(fitting) if owner == place]
        scores[name] = {
            key: float((best if key[0] in at else usual)[key].values.mean())
            for key in usual
        }
    chosen = {}
    for d in range(len(world.prompts)):
        is_found = rng.random() < library.finds
        name = names[fitting[d] if is_found else rng.integers(len(names))]
        chosen |= {key: name for key in scores[name] if key[0] == f"d{d}"}
    shuffled = controls.shuffled(chosen, scores)
    counts.fits += shuffled is not None and shuffled.p_value <= 0.05
    counts.beats_random += controls.random_experts(chosen, scores).p_value <= 0.05
    common = world.draw(rng, world.rate)
    settings = {
        f"s{place}": [_alike(common, world.draw(rng, world.rate), library.shared, rng)]
        for place in range(library.num_settings)
    }
    fitted = cross_fitting.cross_fit(settings, draws)
    if fitted is not None:
        interval = fitted.best_single.estimate.interval
        counts.settings += interval.low <= world.rate <= interval.high


def _alike(
    common: statistics.Columns,
    alone: statistics.Columns,
    shared: float,
    rng: np.random.Generator,
) -> statistics.Columns:
    """Returns results that are those of the first on a share of the rows."""
    return {
        key: statistics.Column(
            column.example_ids,
            np.where(
                rng.random(len(column.values)) < shared,
                column.values,
                alone[key].values,
            ),
        )
        for key, column in common.items()
    }


def error_of(share: float, num_worlds: int) -> float:
    """Returns the standard error of a share in percent."""
    return 100.0 * math.sqrt(share / 100 * (1 - share / 100) / num_worlds)
