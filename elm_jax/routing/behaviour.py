"""Statistics of how experts answer unlabelled rows, by which one is chosen.

Each takes the log-probabilities that several experts give to the answer choices of the
same rows, and gives a number for each expert: the greater, the better it should fit.
All are in nats. No label is read, and the order of rows, experts and choices changes
nothing (choices are moved in all rows alike, as `information` counts their places).
Where rows have no choices, each expert writes an answer of its own, and `OF_WRITTEN`
has what can be said of these.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from elm_jax import errors

Statistic = Literal[
    "log_prob",
    "log_prob_per_token",
    "mass",
    "gain",
    "gain_per_token",
    "entropy",
    "margin",
    "information",
    "mass_and_information",
]


@dataclasses.dataclass(frozen=True)
class ChoiceScores:
    """What experts think of the answers to rows.

    Attributes:
      log_probs: Float64 [experts, rows, choices], in nats, the end token included.
      num_tokens: Int [rows, choices], at least 1 for an answer.
      is_answer: Bool [rows, choices]: whether there is such a choice, and it is no
        answer that came before in its row. What is elsewhere is never read.
      base: Float64 [rows, choices]: the log-probabilities of the base.
    """

    log_probs: np.ndarray
    num_tokens: np.ndarray
    is_answer: np.ndarray
    base: np.ndarray

    def __post_init__(self) -> None:
        """Raises DataError for arrays that do not fit, or rows without an answer."""
        shape = self.log_probs.shape[1:]
        arrays = (self.num_tokens, self.is_answer, self.base)
        fits = self.log_probs.ndim == 3 and all(
            array.shape == shape for array in arrays
        )
        if not fits or not self.log_probs.size or not self.is_answer.any(axis=1).all():
            shapes = ", ".join(f"{array.shape}" for array in (self.log_probs, *arrays))
            raise errors.DataError(
                found=f"scores of choices of shapes {shapes}",
                expected="[experts, rows, choices] and three times [rows, choices],"
                " with one expert, one row and one answer a row at least",
                do="Score the same rows and choices with all experts and the base",
            )

    @classmethod
    def of(
        cls,
        scores: Sequence[Sequence[npt.ArrayLike]],
        base: Sequence[npt.ArrayLike],
        *,
        num_tokens: Sequence[np.ndarray],
        answers: Sequence[np.ndarray],
    ) -> "ChoiceScores":
        """Returns the scores of rows, which may have different numbers of choices.

        Args:
          scores: Of each expert, for each row: float [choices].
          base: The base's, for each row.
          num_tokens: Of the choices of each row.
          answers: The number of each choice's answer, from 0; choices of one answer are
            counted once, by the first of them.
        """
        most = max(len(np.asarray(row)) for row in base)

        def padded(rows: Sequence[npt.ArrayLike], value: float) -> np.ndarray:
            whole = np.full((len(rows), most), value, np.float64)
            for row, short in zip(whole, rows, strict=True):
                values = np.asarray(short)
                row[: len(values)] = values
            return whole

        is_answer = [np.isin(np.arange(len(a)), np.unique(a, True)[1]) for a in answers]
        return cls(
            np.stack([padded(rows, -np.inf) for rows in scores]),
            padded(num_tokens, 1).astype(np.int64),
            padded(is_answer, 0).astype(bool),
            padded(base, -np.inf),
        )

    @property
    def answers(self) -> np.ndarray:
        """Float64 [experts, rows, choices]: `log_probs`, -inf where is no answer."""
        return np.where(self.is_answer, self.log_probs, -np.inf)

    @property
    def of_several(self) -> "ChoiceScores":
        """These scores of the rows that have two answers or more.

        Raises:
          DataError: There is no such row.
        """
        rows = self.is_answer.sum(axis=1) > 1
        if not rows.any():
            raise errors.DataError(
                found="rows with one answer each",
                expected="rows with two answers or more, which can be compared",
                do="Route by log_prob, mass or gain, or by rows with choices",
            )
        return ChoiceScores(
            self.log_probs[:, rows],
            *(part[rows] for part in (self.num_tokens, self.is_answer, self.base)),
        )


@dataclasses.dataclass(frozen=True)
class WrittenScores:
    """Experts' log-probabilities of the answers that they wrote, one for each row.

    Attributes:
      log_probs: Float64 [experts, rows], in nats, the end token included.
      num_tokens: Int [experts, rows], at least 1.
    """

    log_probs: np.ndarray
    num_tokens: np.ndarray

    def __post_init__(self) -> None:
        """Raises DataError for arrays that do not fit, or are empty."""
        shape = self.log_probs.shape
        if len(shape) != 2 or not all(shape) or self.num_tokens.shape != shape:  # noqa: PLR2004
            raise errors.DataError(
                found=f"scores of shapes {shape} and {self.num_tokens.shape}",
                expected="twice [experts, rows], with one of each at least",
                do="Let all experts answer the same rows",
            )


def log_prob(scores: ChoiceScores) -> np.ndarray:
    """Returns the mean over rows of the best answer's log-probability.

    It is `mass` plus the log of the share that the best answer has of that.
    """
    return scores.answers.max(axis=2).mean(axis=1)


def log_prob_per_token(scores: ChoiceScores) -> np.ndarray:
    """Returns `log_prob` of answers' log-probabilities divided by their tokens."""
    return (scores.answers / scores.num_tokens).max(axis=2).mean(axis=1)


def mass(scores: ChoiceScores) -> np.ndarray:
    """Returns the mean over rows of the log of the answers' summed probability.

    So it asks whether an expert writes answers of this form at all, not which one.
    """
    return special.logsumexp(scores.answers, axis=2).mean(axis=1)


def gain(scores: ChoiceScores) -> np.ndarray:
    """Returns by how much the best answer is likelier than under the base.

    Mean over rows of the difference of log-probabilities of that one answer.
    """
    return _gain(scores, np.ones_like(scores.num_tokens))


def gain_per_token(scores: ChoiceScores) -> np.ndarray:
    """Returns `gain` with all log-probabilities divided by the answers' tokens."""
    return _gain(scores, scores.num_tokens)


def entropy(scores: ChoiceScores) -> np.ndarray:
    """Returns minus the mean entropy over answers, with probabilities that sum to 1.

    Raises:
      DataError: No row has two answers.
    """
    return -_entropy(_shares(scores.of_several)).mean(axis=1)


def margin(scores: ChoiceScores) -> np.ndarray:
    """Returns the mean difference of log-probability between the two best answers.

    Raises:
      DataError: No row has two answers.
    """
    best = np.sort(scores.of_several.answers, axis=2)
    return (best[:, :, -1] - best[:, :, -2]).mean(axis=1)


def information(scores: ChoiceScores) -> np.ndarray:
    """Returns the mutual information of rows and the places of their answers.

    The entropy of an expert's mean answer less its mean entropy: great where it is sure
    of each row and answers different rows differently.

    Raises:
      DataError: No row has two answers.
    """
    shares = _shares(scores.of_several)
    return _entropy(shares.mean(axis=1)) - _entropy(shares).mean(axis=1)


def mass_and_information(scores: ChoiceScores) -> np.ndarray:
    """Returns the sum of `mass` and `information`: form, and sure, varied answers.

    Raises:
      DataError: No row has two answers.
    """
    return mass(scores) + information(scores)


STATISTICS: Mapping[Statistic, Callable[[ChoiceScores], np.ndarray]] = {
    "log_prob": log_prob,
    "log_prob_per_token": log_prob_per_token,
    "mass": mass,
    "gain": gain,
    "gain_per_token": gain_per_token,
    "entropy": entropy,
    "margin": margin,
    "information": information,
    "mass_and_information": mass_and_information,
}
"""Functions of scores that return float64 [experts], by name."""

BELOW_0: frozenset[Statistic] = frozenset(
    {"log_prob", "log_prob_per_token", "mass", "entropy"}
)
"""Statistics that are never above 0, and in practice below it."""

OF_WRITTEN: Mapping[Statistic, Callable[[WrittenScores], np.ndarray]] = {
    "log_prob": lambda scores: scores.log_probs.mean(axis=1),
    "log_prob_per_token": lambda scores: (scores.log_probs / scores.num_tokens).mean(
        axis=1
    ),
}
"""The same of answers that experts wrote: the only answer is the best one."""


def ranked(
    names: Sequence[str], scores: ChoiceScores | WrittenScores, statistic: Statistic
) -> tuple[tuple[str, float], ...]:
    """Returns experts with a statistic, greatest first, equal ones by name.

    Numbers have six digits, so that the noise of other batches does not tell in them.

    Raises:
      DataError: The statistic compares answers, and experts wrote one each, or no row
        has two.
    """
    if isinstance(scores, WrittenScores):
        if statistic not in OF_WRITTEN:
            raise errors.DataError(
                found=f"{statistic} of answers that experts wrote, one to each row",
                expected=f"one of {', '.join(OF_WRITTEN)}",
                do="Choose one of these for tasks without answer choices",
            )
        values = OF_WRITTEN[statistic](scores).tolist()
    else:
        values = STATISTICS[statistic](scores).tolist()
    rounded = [float(f"{value:.6g}") for value in values]
    pairs = zip(names, rounded, strict=True)
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def weights(values: npt.ArrayLike, *, temperature: float) -> tuple[float, ...]:
    """Returns weights that sum to 1: the softmax of numbers over a temperature."""
    return tuple(special.softmax(np.asarray(values) / temperature).tolist())


def _gain(scores: ChoiceScores, divisors: np.ndarray) -> np.ndarray:
    per_token = scores.answers / divisors
    best = per_token.argmax(axis=2)[:, :, np.newaxis]
    base = np.broadcast_to(scores.base / divisors, per_token.shape)
    difference = np.take_along_axis(per_token, best, 2) - np.take_along_axis(
        base, best, 2
    )
    return difference.mean(axis=(1, 2))


def _shares(scores: ChoiceScores) -> np.ndarray:
    """Returns what each answer has of the answers' probability; 0 for no answer."""
    return special.softmax(scores.answers, axis=2)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return special.entr(shares).sum(axis=-1)
