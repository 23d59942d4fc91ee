"""Pools of answers: several experts score the choices, and one score comes of these.

A logarithmic opinion pool is the weighted mean of log-probabilities, so that answers
have the weighted geometric mean of the experts' probabilities (Genest and Zidek 1986,
Statistical Science 1, 114-135; products of experts, Hinton 2002, Neural Computation 14,
1771-1800). An expert that gives all answers of a row the same probability changes
nothing, however great its weight.

Models often prefer an answer before they have read the question. Where all rows have
the same choices, such as `yes` and `no`, the mean score of each choice over unlabelled
rows tells that preference, and is taken away (batch calibration, Zhou et al. 2023,
arXiv:2309.17249; there the mean is of probabilities, here of their logarithms). Where
the order of choices is by chance these means are alike, and change next to nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.routing import behaviour

_DECIMALS = 6  # of weights and means: no rounding of a machine makes another pool


class Pool(NamedTuple):
    """Experts with their say in a common answer.

    Attributes:
      weights: Of experts by name, the greatest first, none 0.
      place_means: What is taken from each place of the choices; () for nothing.
    """

    weights: Mapping[str, float]
    place_means: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        ranked: Sequence[tuple[str, float]],
        names: Sequence[str],
        scores: behaviour.ChoiceScores,
        *,
        temperature: float,
        calibrates: bool,
    ) -> "Pool":
        """Returns the pool of experts with some statistic.

        Args:
          ranked: Its experts and their statistic in nats, the greatest first.
          names: Of all experts that were scored.
          scores: What these give to the choices of unlabelled rows.
          temperature: Of the softmax that makes weights of the statistic, in nats.
          calibrates: Whether the mean of each place is taken away.
        """
        experts, values = zip(*ranked, strict=True)
        shares = behaviour.weights(values, temperature=temperature)
        rounded = (round(share, _DECIMALS) for share in shares)
        weights = {n: w for n, w in zip(experts, rounded, strict=True) if w}
        if not calibrates:
            return cls(weights)
        places = [names.index(name) for name in weights]
        of_these = dataclasses.replace(scores, log_probs=scores.log_probs[places])
        means = place_means([*weights.values()], of_these)
        return cls(weights, tuple(round(mean, _DECIMALS) for mean in means))


def pooled(
    weights: Sequence[float], scores: Sequence[Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """Returns the weighted sums of what experts give to the choices of rows.

    Args:
      weights: One for each expert.
      scores: Of each expert, for each row: float [choices], in nats.

    Returns:
      For each row float64 [choices].

    Raises:
      DataError: Experts have scored different numbers of rows or choices.
    """
    counts = {tuple(map(len, of_expert)) for of_expert in scores}
    if len(counts) != 1 or len(weights) != len(scores):
        raise errors.DataError(
            found=f"{len(weights)} weights, and scores of {len(scores)} experts, for"
            f" {len(counts)} different lists of rows",
            expected="a weight for each expert, and the same rows scored by all",
            do="Score the same rows and choices with all of these experts",
        )
    factors = np.asarray(weights, np.float64)[:, np.newaxis]
    # Not a matrix product: it gives equal choices other bits at other places.
    return [
        (factors * np.stack(of_row)).sum(axis=0) for of_row in zip(*scores, strict=True)
    ]


def place_means(
    weights: Sequence[float], scores: behaviour.ChoiceScores
) -> tuple[float, ...]:
    """Returns the mean pooled score of each place of the choices, over rows.

    Args:
      weights: One for each expert.
      scores: Of the experts, on unlabelled rows.

    Returns:
      In nats, with a sum of 0; empty where rows differ in their number of answers, or
      two choices of a row are one answer.
    """
    if not scores.is_answer.all():
        return ()
    means = np.einsum("e,erc->rc", np.asarray(weights), scores.log_probs).mean(axis=0)
    return tuple((means - means.mean()).tolist())


def without_preference(row: np.ndarray, means: Sequence[float]) -> np.ndarray:
    """Returns the scores of a row's choices, each less the mean of its place.

    Choices of equal scores stay equal: the mean of their places is taken from each.

    Args:
      row: Float [choices].
      means: As of `place_means`; a row of another number of choices stays as it is.
    """
    if len(row) != len(means):
        return row
    _, text_groups = np.unique(row, return_inverse=True)
    shared = np.bincount(text_groups, means) / np.bincount(text_groups)
    return row - shared[text_groups]
