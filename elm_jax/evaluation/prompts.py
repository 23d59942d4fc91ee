"""How scores spread over prompts, and whether a new prompt keeps an order of models."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import statistics


class Spread(NamedTuple):
    """Scores of prompts; each figure is the mean over datasets of that figure.

    Attributes:
      mean: Over prompts.
      median: Over prompts.
      lower: First quartile.
      upper: Third quartile.
      worst: The lowest score of a prompt.
      worst_task: The task with the lowest score of all.
    """

    mean: float
    median: float
    lower: float
    upper: float
    worst: float
    worst_task: str


def spread(columns: statistics.Columns) -> Spread:
    """Returns how the scores of a model spread over prompts.

    Raises:
      DataError: There is no column, or one without rows.
    """
    statistics.check(columns)
    scores = _scores(columns)
    rows = [
        (
            np.mean(task_scores),
            *np.quantile(task_scores, [0.5, 0.25, 0.75]),
            np.min(task_scores),
        )
        for task_scores in (list(by_task.values()) for by_task in scores.values())
    ]
    tasks = {
        task: score for by_task in scores.values() for task, score in by_task.items()
    }
    worst = min(sorted(tasks), key=lambda task: tasks[task])
    mean, median, lower, upper, least = np.mean(rows, axis=0).tolist()
    return Spread(mean, median, lower, upper, least, worst)


def chance_of_order(first: statistics.Columns, second: statistics.Columns) -> float:
    """Returns how likely the order of two models' means holds for a new prompt.

    That is, for one more prompt of these datasets: each prompt is left out in turn, and
    the order by all others compared with the one by it alone; equals count half. The
    mean over datasets of means over prompts.

    Returns:
      A probability; NaN where no dataset has two prompts.

    Raises:
      DataError: The two have not the same rows of the same tasks.
    """
    scores = _scores(statistics.difference(first, second))
    gaps = [np.array(list(by_task.values())) for by_task in scores.values()]
    means = np.array([task_gaps.mean() for task_gaps in gaps])
    chances = []
    for place, task_gaps in enumerate(gaps):
        if len(task_gaps) > 1:
            without = (task_gaps.sum() - task_gaps) / (len(task_gaps) - 1)
            order = without + means.sum() - means[place]
            chances.append(
                np.mean(0.5 + 0.5 * np.sign(order.round(9) * task_gaps.round(9)))
            )
    return float(np.mean(chances)) if chances else math.nan


def _scores(columns: statistics.Columns) -> Mapping[str, dict[str, float]]:
    """Returns the mean over rows of each task, by dataset."""
    by_dataset: dict[str, dict[str, float]] = {}
    for dataset, task in sorted(columns):
        values = columns[dataset, task].values
        by_dataset.setdefault(dataset, {})[task] = float(values.mean())
    return by_dataset
