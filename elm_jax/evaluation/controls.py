"""What a library's experts score without any choice, and how good a choice is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import statistics


def average(experts: Mapping[str, statistics.Columns]) -> statistics.Columns | None:
    """Returns each row's mean over experts: the result of one drawn at random.

    None if the experts have not all the same rows.
    """
    first, *others = experts.values()
    total = {key: column.values.copy() for key, column in first.items()}
    for one in others:
        if one.keys() != first.keys():
            return None
        for key, column in one.items():
            if not np.array_equal(column.example_ids, first[key].example_ids):
                return None
            total[key] += column.values
    number = 1 + len(others)
    return {
        key: statistics.Column(first[key].example_ids, values / number)
        for key, values in total.items()
    }


def mean_of(trainings: Sequence[statistics.Columns]) -> statistics.Columns:
    """Returns each row's mean over trainings of one expert.

    Raises:
      DataError: They have not the same rows.
    """
    if len(trainings) == 1:
        return trainings[0]
    found = average({str(place): one for place, one in enumerate(trainings)})
    if found is None:
        raise errors.DataError(
            found="trainings of one expert with different rows",
            expected="all scored on the same rows",
            do="Score them by one configuration",
        )
    return found


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
    chosen: Mapping[tuple[str, str], str],
    scores: Mapping[str, Mapping[tuple[str, str], float]],
) -> Rank:
    """Returns the rank of the experts that were chosen.

    Args:
      chosen: Expert by (dataset, task).
      scores: Scores of each expert by (dataset, task); all have the same tasks.
    """
    ranks: dict[str, list[float]] = {}
    best = 0
    for key, name in chosen.items():
        every = np.array([own[key] for own in scores.values()])
        own = scores[name][key]
        above = int((every > own).sum())
        ranks.setdefault(key[0], []).append(above + (1 + int((every == own).sum())) / 2)
        best += not above
    mean = float(np.mean([np.mean(own) for own in ranks.values()]))
    return Rank(mean, (1 + len(scores)) / 2, best, len(chosen), len(scores))
