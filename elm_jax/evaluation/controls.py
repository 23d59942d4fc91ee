"""What a library's experts score without any choice, and how good a choice is."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import statistics

_NUM_DRAWS = 10_000  # Of permutations and random experts; all, where there are fewer.
_OUTSIDE = 0.025  # of draws, on each side of a range of 95 %

Choice = Mapping[tuple[str, str], str]
"""Expert by (dataset, task)."""
Scores = Mapping[str, Mapping[tuple[str, str], float]]
"""Of each expert by (dataset, task); all have the same tasks."""


def average(experts: Mapping[str, statistics.Columns]) -> statistics.Columns | None:
    """Returns each row's mean over experts: the result of one drawn at random.

    None if the experts have not all the same rows.
    """
    first, *rest = experts.values()
    total = {key: column.values.copy() for key, column in first.items()}
    ids = {key: column.example_ids for key, column in first.items()}
    for columns in rest:
        if columns.keys() != first.keys():
            return None
        for key, column in columns.items():
            if column.example_ids is not ids[key] and not np.array_equal(
                column.example_ids, ids[key]
            ):
                return None
            total[key] += column.values
    number = 1 + len(rest)
    return {
        key: statistics.Column(ids[key], values / number)
        for key, values in total.items()
    }


def mean_of(trainings: Sequence[statistics.Columns]) -> statistics.Columns:
    """Returns each row's mean over trainings of one expert.

    Raises:
      DataError: They have not the same rows.
    """
    if len(trainings) == 1:
        return trainings[0]
    mean = average({str(place): columns for place, columns in enumerate(trainings)})
    if mean is None:
        raise errors.DataError(
            found="trainings of one expert with different rows",
            expected="all scored on the same rows",
            do="Score them by one configuration",
        )
    return mean


class Rank(NamedTuple):
    """Where what was chosen for each task stands among all that could be chosen.

    Attributes:
      mean: Over datasets of means over tasks; 1 is the best, equals share their ranks.
      of_random: The mean rank of an expert drawn at random.
      best: Tasks on which one of the best was chosen.
      num_tasks: Tasks.
      num_experts: Experts that could be chosen.
    """

    mean: float
    of_random: float
    best: int
    num_tasks: int
    num_experts: int


def rank(
    chosen: Choice,
    scores: Scores,
) -> Rank:
    """Returns the rank of the experts that were chosen.

    Args:
      chosen: The choice.
      scores: Of all that could be chosen.
    """
    ranks: dict[str, list[float]] = {}
    best = 0
    for key, name in chosen.items():
        every = np.array([by_task[key] for by_task in scores.values()])
        score = scores[name][key]
        above = int((every > score).sum())
        ranks.setdefault(key[0], []).append(
            above + (1 + int((every == score).sum())) / 2
        )
        best += not above
    mean = float(np.mean([np.mean(dataset_ranks) for dataset_ranks in ranks.values()]))
    return Rank(mean, (1 + len(scores)) / 2, best, len(chosen), len(scores))


class Drawn(NamedTuple):
    """The score of a choice, and scores of random choices of the same form.

    Attributes:
      score: Of the choice, in the unit of the scores.
      mean: Of those that luck made.
      low: The end below which 2.5 % of them lie.
      high: The end above which 2.5 % of them lie.
      p_value: The share of them that score at least as much; the choice counts as one
        of them.
      num_draws: How many they are.
    """

    score: float
    mean: float
    low: float
    high: float
    p_value: float
    num_draws: int


def random_experts(chosen: Choice, scores: Scores, *, seed: int = 0) -> Drawn:
    """Returns what one expert drawn at random for each dataset scores.

    All prompts of a dataset get the same: they are alike, and so is what fits them.

    Args:
      chosen: The choice that is held against it.
      scores: Of all that could be chosen.
      seed: Of the draws.
    """
    tasks = _by_dataset(chosen)
    chosen_means = [
        np.mean([scores[chosen[key]][key] for key in keys]) for keys in tasks
    ]
    table = np.array(
        [
            [np.mean([by_task[key] for key in keys]) for by_task in scores.values()]
            for keys in tasks
        ]
    )
    rng = np.random.default_rng(seed)
    places = rng.integers(len(scores), size=(_NUM_DRAWS, len(tasks)))
    drawn = table[np.arange(len(tasks)), places].mean(axis=1)
    return _drawn(float(np.mean(chosen_means)), np.append(drawn, np.mean(chosen_means)))


def shuffled(chosen: Choice, scores: Scores, *, seed: int = 0) -> Drawn | None:
    """Returns what choices score that are shuffled between datasets.

    A choice that is good everywhere scores the same after that; one that fits its
    dataset does not. Within a dataset every prompt gets the mean over the choices of
    the dataset's prompts, also in the score of the choice itself, as datasets have
    different numbers of prompts. All permutations are tried, or 10,000 of many.

    Args:
      chosen: The choice.
      scores: Of the experts that were chosen, at least.
      seed: Of the permutations.

    Returns:
      None for a single dataset.

    Reference:
      Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, chapter 3.
    """
    tasks = _by_dataset(chosen)
    number = len(tasks)
    if number < 2:
        return None
    table = np.array(
        [
            [_exchanged(keys, other_keys, chosen, scores) for other_keys in tasks]
            for keys in tasks
        ]
    )
    if math.factorial(number) <= _NUM_DRAWS:
        orders = np.array([*itertools.permutations(range(number))])
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(number), (_NUM_DRAWS, 1)), axis=1)
        orders[-1] = np.arange(number)
    drawn = table[np.arange(number), orders].mean(axis=1)
    return _drawn(float(np.diagonal(table).mean()), drawn)


def elsewhere(
    chosen: Choice, experts: Mapping[str, statistics.Columns]
) -> statistics.Columns | None:
    """Returns each row's mean over the experts that were chosen for other datasets.

    Each other dataset counts alike, and its prompts.

    Args:
      chosen: The choice.
      experts: Results of those that were chosen, at least.

    Returns:
      None for a single dataset, or if the experts have not all the same rows.
    """
    tasks = _by_dataset(chosen)
    if len(tasks) < 2:
        return None
    means: dict[tuple[str, str], statistics.Column] = {}
    for keys in tasks:
        for key in keys:
            values, ids = 0.0, experts[chosen[key]][key].example_ids
            for other_keys in tasks:
                for other_key in other_keys if other_keys is not keys else ():
                    column = experts[chosen[other_key]].get(key)
                    if column is None or not np.array_equal(column.example_ids, ids):
                        return None
                    values = values + column.values / len(other_keys)
            means[key] = statistics.Column(ids, np.asarray(values) / (len(tasks) - 1))
    return means


def _by_dataset(chosen: Choice) -> list[list[tuple[str, str]]]:
    names = sorted({dataset for dataset, _ in chosen})
    return [sorted(key for key in chosen if key[0] == name) for name in names]


def _exchanged(
    keys: Sequence[tuple[str, str]],
    other_keys: Sequence[tuple[str, str]],
    chosen: Choice,
    scores: Scores,
) -> float:
    """Returns the mean score on the tasks `keys` of the experts of `other_keys`."""
    return float(
        np.mean([[scores[chosen[o]][key] for o in other_keys] for key in keys])
    )


def _drawn(score: float, drawn: np.ndarray) -> Drawn:
    low, high = np.quantile(drawn, [_OUTSIDE, 1 - _OUTSIDE]).tolist()
    share = float(np.mean(drawn >= score - 1e-9))
    return Drawn(score, float(drawn.mean()), low, high, share, len(drawn))
