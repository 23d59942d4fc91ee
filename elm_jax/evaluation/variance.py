"""How much of the variance of a score comes from rows, prompts and trainings.

The results of a model on a dataset are a table of trainings x rows x prompts. Its
variance is parted as in the analysis of variance with random, crossed effects;
estimates below zero count as zero.

Reference: Searle, Casella and McCulloch, Variance Components, chapter 4.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import statistics

_AXES = ("training", "row", "prompt")
_Components = dict[tuple[str, ...], float]


class Shares(NamedTuple):
    """Where the variance of a single result comes from, and the error of the mean.

    Attributes:
      row: Share of rows being easy or hard for all prompts and trainings, in percent.
      prompt: Of prompts being good or bad for all rows.
      training: Of trainings; NaN where there is one.
      rest: Of all that goes its own way: a row under a prompt, after a training.
      row_error: Standard error of the mean over datasets by other rows, in points.
      prompt_error: By other prompts; NaN where no dataset has two.
      training_error: By another training (of as many); NaN where there is one.
    """

    row: float
    prompt: float
    training: float
    rest: float
    row_error: float
    prompt_error: float
    training_error: float


def shares(trainings: Sequence[statistics.Columns]) -> Shares | None:
    """Returns the parts of the variance, each the mean over datasets.

    Rows that lack under a prompt are left out.

    Args:
      trainings: The results of each training of one model, on the same rows.

    Returns:
      None where a dataset has less than two rows that all prompts have.
    """
    datasets = sorted({dataset for dataset, _ in trainings[0]})
    components = []
    sizes = []
    for name in datasets:
        tables = [
            statistics.table(statistics.of_dataset(columns, name))[1]
            for columns in trainings
        ]
        cube = np.stack(tables)
        cube = cube[:, np.isfinite(cube).all(axis=(0, 2))]
        if cube.shape[1] < 2:
            return None
        components.append(_components(cube))
        sizes.append(cube.shape)
    parts = {
        key: float(np.mean([variances.get(key, 0.0) for variances in components]))
        for key in _KEYS
    }
    total = sum(parts.values()) or 1.0
    main = {axis: 100.0 * parts[axis,] / total for axis in _AXES}
    errors = {
        axis: math.sqrt(
            sum(
                _error(variances, size, place)
                for variances, size in zip(components, sizes, strict=True)
            )
        )
        / len(datasets)
        for place, axis in enumerate(_AXES)
    }
    has_prompts = any(size[2] > 1 for size in sizes)
    several = len(trainings) > 1
    if several:
        # A training is one for all datasets, whose means move together.
        means = [statistics.mean(columns) for columns in trainings]
        errors["training"] = float(np.std(means, ddof=1)) / math.sqrt(len(means))
    return Shares(
        main["row"],
        main["prompt"] if has_prompts else math.nan,
        main["training"] if several else math.nan,
        100.0 - sum(main.values()),
        errors["row"],
        errors["prompt"] if has_prompts else math.nan,
        errors["training"] if several else math.nan,
    )


_KEYS = [key for size in (1, 2, 3) for key in itertools.combinations(_AXES, size)]


def _error(parts: _Components, size: Sequence[int], axis: int) -> float:
    """Returns the variance of a dataset's mean by another draw along an axis."""
    variance = 0.0
    for key, part in parts.items():
        if _AXES[axis] in key:
            variance += part / math.prod(size[_AXES.index(name)] for name in key)
    return variance


def _components(cube: np.ndarray) -> _Components:
    """Returns the variance of each effect of a table [trainings, rows, prompts].

    An axis of length 1 has no effect; what it has lies in the others.
    """
    axes = [i for i in range(3) if cube.shape[i] > 1]
    squares: dict[tuple[int, ...], float] = {}
    for size in range(1, len(axes) + 1):
        for key in itertools.combinations(axes, size):
            effect = _effect(cube, key)
            freedom = math.prod(cube.shape[i] - 1 for i in key)
            repeats = cube.size / math.prod(cube.shape[i] for i in key)
            squares[key] = repeats * float((effect**2).sum()) / freedom
    variances: dict[tuple[int, ...], float] = {}
    for key in sorted(squares, key=len, reverse=True):
        above = [k for k in squares if set(k) > set(key)]
        # The expected mean square of an effect has those of all effects that hold it.
        rest = sum(
            variances[k] * cube.size / math.prod(cube.shape[i] for i in k)
            for k in above
        )
        repeats = cube.size / math.prod(cube.shape[i] for i in key)
        variances[key] = (squares[key] - rest) / repeats
    return {
        tuple(_AXES[i] for i in key): max(0.0, value)
        for key, value in variances.items()
    }


def _effect(cube: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Returns the pure effect of the axes `key`; other axes have length 1."""
    other_axes = tuple(i for i in range(3) if i not in key)
    effect = cube.mean(axis=other_axes, keepdims=True)
    for axis in key:
        effect = effect - effect.mean(axis=axis, keepdims=True)
    return effect
