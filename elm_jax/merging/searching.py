"""Coefficients of experts that are found by what they lead to.

Nothing here runs a model. The caller gives a function of the coefficients, and gets the
best ones, which are weights of a method such as `task_arithmetic`:

| function | given | finds |
|---|---|---|
| `greedy_soup` | a score of a set of experts | the set |
| `lorahub` | a loss of weights | weights, by search |
| `lorahub_by_gradient` | a loss and its gradient | weights, by gradient |
| `adamerging` | an entropy and its gradient | weights, of each group of layers apart |

Rows that choose coefficients must not be rows of the split that is reported.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from elm_jax.merging import combining

Loss = Callable[[np.ndarray], float]
"""Coefficients to a loss, the mean over rows."""
LossAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The same, and its gradient by the coefficients."""


@dataclasses.dataclass(frozen=True)
class Searched:
    """The outcome of a search.

    Attributes:
      coefficients: The best that were tried.
      value: What they lead to: a loss, without any penalty, or a score.
      values: Of all that was tried, in turn.
    """

    coefficients: np.ndarray
    value: float
    values: tuple[float, ...]


def greedy_soup(
    scores: Sequence[float], score: Callable[[tuple[int, ...]], float]
) -> Searched:
    """Returns the experts of a greedy soup, as coefficients 1 and 0.

    The best expert begins. Each other expert, by falling score, becomes a member if the
    mean of all members is not worse with it.

    Reference: Wortsman et al. 2022, arXiv:2203.05482.

    Args:
      scores: Of each expert on validation rows; more is better. Ties go by the order in
        which experts are given.
      score: Of the uniform average of these experts.
    """
    _check_finite(scores)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    members, best = [order[0]], scores[order[0]]
    tried = [best]
    for place in order[1:]:
        value = score(tuple(sorted([*members, place])))
        tried.append(value)
        if value >= best:
            members, best = [*members, place], value
    coefficients = np.zeros(len(scores))
    coefficients[members] = 1.0
    return Searched(coefficients, best, tuple(tried))


def lorahub(
    loss: Loss,
    num_experts: int,
    *,
    max_steps: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
) -> Searched:
    """Returns weights in [-bound, bound] with the least loss and mean size, by search.

    From 0, `loss + penalty * mean |w|` is minimised. The tool searches by Nevergrad's
    NGOpt, on A and B of LoRAs apart; here by COBYQA, which has no randomness, and it is
    the caller's loss that says what a weight multiplies: take effects.

    Reference: Huang et al. 2023, arXiv:2307.13269.

    Args:
      loss: Of weights, in nats per row.
      num_experts: How many weights.
      max_steps: How many weights are tried.
      bound: Of each weight.
      penalty: On the mean of their sizes.
    """
    tried: list[tuple[float, float, np.ndarray]] = []

    def penalised(weights: np.ndarray) -> float:
        value = float(loss(weights))
        total = value + penalty * float(np.abs(weights).mean())
        tried.append((total, value, weights.copy()))
        return total

    start = np.zeros(num_experts)
    penalised(start)
    optimize.minimize(
        penalised,
        start,
        method="COBYQA",
        bounds=[(-bound, bound)] * num_experts,
        options={"maxfev": max(1, max_steps - 1), "initial_tr_radius": bound / 2},
    )
    return _best(tried)


def lorahub_by_gradient(
    loss: LossAndGradient,
    num_experts: int,
    *,
    max_steps: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
    learning_rate: float = 0.1,
) -> Searched:
    """Returns weights as `lorahub` does, found by Adam: the best point of its path.

    Args:
      loss: Of weights, and its gradient.
      num_experts: How many weights.
      max_steps: Greatest number of Adam's steps.
      bound: Of each weight.
      penalty: On the mean of their sizes.
      learning_rate: Adam's learning rate.
    """

    def penalised(weights: np.ndarray) -> tuple[float, float, np.ndarray]:
        value, gradient = loss(weights)
        total = float(value) + penalty * float(np.abs(weights).mean())
        return total, float(value), gradient + penalty * np.sign(weights) / num_experts

    start = np.zeros(num_experts)
    return _descend(penalised, start, max_steps, learning_rate, bound)


def adamerging(
    entropy: LossAndGradient,
    shape: tuple[int, ...],
    *,
    start: float = 0.3,
    max_steps: int = 1000,
    learning_rate: float = 1e-3,
) -> Searched:
    """Returns coefficients with the least entropy of answers to unlabelled rows.

    For ranking, the entropy of each row's distribution over its answer choices, and its
    mean over rows. FusionBench's, for Flan-T5, is of the mean of a batch's logits,
    after a decoder that begins with the end-of-text token.

    Reference: Yang et al. 2023, arXiv:2310.02575.

    Args:
      entropy: Of coefficients of such a shape, and its gradient.
      shape: (experts,), or (experts, groups of layers).
      start: All coefficients at the beginning.
      max_steps: Greatest number of Adam's steps.
      learning_rate: Adam's learning rate.
    """

    def plain(coefficients: np.ndarray) -> tuple[float, float, np.ndarray]:
        value, gradient = entropy(coefficients)
        return float(value), float(value), gradient

    return _descend(plain, np.full(shape, start), max_steps, learning_rate, None)


def _descend(
    step: Callable[[np.ndarray], tuple[float, float, np.ndarray]],
    start: np.ndarray,
    max_steps: int,
    learning_rate: float,
    bound: float | None,
) -> Searched:
    point, mean, square = start, np.zeros_like(start), np.zeros_like(start)
    tried: list[tuple[float, float, np.ndarray]] = []
    for number in range(1, max_steps + 2):
        total, value, gradient = step(point)
        tried.append((total, value, point))
        # Adam, in float64: Kingma and Ba 2015, arXiv:1412.6980.
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        size = np.sqrt(square / (1 - 0.999**number)) + 1e-8
        point = point - learning_rate * mean / (1 - 0.9**number) / size
        point = point if bound is None else np.clip(point, -bound, bound)
    return _best(tried)


def _best(tried: Sequence[tuple[float, float, np.ndarray]]) -> Searched:
    _check_finite([total for total, _, _ in tried])
    _, value, coefficients = min(tried, key=lambda each: each[0])
    return Searched(coefficients, value, tuple(value for _, value, _ in tried))


def _check_finite(values: Sequence[float]) -> None:
    if not len(values) or not np.isfinite(values).all():
        combining.refuse(
            found=f"losses or scores {[*values][:10]}",
            expected="one or more finite numbers",
            do="Look at the experts, and at the rows that choose",
        )
