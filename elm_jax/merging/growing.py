"""How far the mean of more and more experts pulls what each of them does."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Growth:
    """Means of the first experts of an order.

    Attributes:
      order: Of the experts, by their numbers.
      pulls: Of the first 1, 2, ... experts, float64 [experts]; NaN without matrices.
    """

    order: tuple[int, ...]
    pulls: np.ndarray


def most_alike(forecast: np.ndarray) -> tuple[int, ...]:
    """Returns experts in an order in which the first ones lose least when merged.

    It begins with the pair of the least forecast. Then it takes, again and again, the
    expert with the least mean forecast with all experts taken so far; of equal experts
    the first.

    >>> most_alike(np.array([[0.0, 0.9, 0.8], [0.9, 0.0, 0.1], [0.8, 0.1, 0.0]]))
    (1, 2, 0)

    Args:
      forecast: Of pairs, [experts, experts]; NaN, for what is not defined, comes last.
    """
    distances = np.where(np.isnan(forecast), np.inf, forecast)
    np.fill_diagonal(distances, np.inf)
    order = [int(np.argmin(distances.min(axis=1)))]
    remaining = [expert for expert in range(len(distances)) if expert != order[0]]
    while remaining:
        means = distances[np.ix_(remaining, order)].mean(axis=1)
        order.append(remaining.pop(int(np.argmin(means))))
    return tuple(order)


def at_random(num_experts: int, random_seed: int) -> tuple[int, ...]:
    """Returns experts in an order that is drawn by a seed."""
    drawn = np.random.default_rng(random_seed).permutation(num_experts)
    return tuple(int(expert) for expert in drawn)


def grown(
    layers: Iterable[np.ndarray], orders: Sequence[Sequence[int]]
) -> list[Growth]:
    """Returns how far means of the first experts pull, of each order.

    Of k experts, with M their mean, `sum |(M - D_i)' D_i|^2 / sum |D_i' D_i|^2`: of two
    that is the pull of a pair. Layers count by the mean of `|D_i| |D_j|` over pairs.

    Args:
      layers: What experts change in one matrix after another, [experts, m, n].
      orders: Of the experts.
    """
    totals = np.zeros((len(orders), *np.shape(orders[0])))
    weights = np.zeros_like(totals)
    for changes in layers:
        for place, order in enumerate(orders):
            pulls, weight = _of_layer(changes, order)
            totals[place] += pulls * weight
            weights[place] += weight
    means = np.divide(
        totals, weights, out=np.full(totals.shape, np.nan), where=weights > 0
    )
    # One expert is its own mean.
    means[:, 0] = np.where(np.isnan(means).all(axis=1), np.nan, 0.0)
    pairs = zip(orders, means, strict=True)
    return [Growth(tuple(order), mean) for order, mean in pairs]


def _of_layer(
    changes: np.ndarray, order: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pulls of means of the first 1, 2, ... experts, and their weights."""
    pulls, weights = np.zeros(len(order)), np.zeros(len(order))
    norms = np.sqrt(np.square(changes).sum(axis=(1, 2)))[[*order]]
    alone = np.array([_square(changes[expert], changes[expert]) for expert in order])
    total = changes[order[0]].copy()
    for count, expert in enumerate(order[1:], start=2):
        total += changes[expert]
        mean = total / count
        lost = sum(_square(mean - changes[i], changes[i]) for i in order[:count])
        own_squares = alone[:count].sum()
        pulls[count - 1] = lost / own_squares if own_squares else 0.0
        first_norms = norms[:count]
        products = first_norms.sum() ** 2 - np.square(first_norms).sum()
        weights[count - 1] = max(0.0, products) / (count * (count - 1))
    return pulls, weights


def _square(first: np.ndarray, second: np.ndarray) -> float:
    """Returns `|A' B|^2`, by products of the smaller size."""
    rows, columns = first.shape
    if rows < columns:  # <A A', B B'>
        return float(((first @ first.T) * (second @ second.T)).sum())
    return float(np.square(first.T @ second).sum())
