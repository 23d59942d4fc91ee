"""How the experts of a library answer the unlabelled rows of a task."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elm_jax.data import token_store
from elm_jax.evaluation import answers
from elm_jax.routing import behaviour


class Behaviour(NamedTuple):
    """What experts think of the answer choices of some rows, or of their own answers.

    Attributes:
      names: Of the experts.
      scores: What they and the base give to the choices; where rows have none, what
        each expert gives to what it wrote.
    """

    names: tuple[str, ...]
    scores: behaviour.ChoiceScores | behaviour.WrittenScores

    def ranked(
        self, statistic: behaviour.Statistic, among: Collection[str]
    ) -> tuple[tuple[str, float], ...]:
        """Returns some of the experts with a statistic; see `behaviour.ranked`.

        Raises:
          DataError: The statistic needs rows with two answers, or with choices, and
            there are none.
        """
        every = behaviour.ranked(self.names, self.scores, statistic)
        return tuple(pair for pair in every if pair[0] in among)

    def of_rows(
        self, names: Sequence[str], places: Sequence[int]
    ) -> list[list[list[float]]]:
        """Returns log-probabilities: of each expert, for each row, of its answers.

        Args:
          names: Of the experts.
          places: Of the rows among those that were scored.
        """
        log_probs = self.scores.log_probs
        return [
            [_finite(log_probs[self.names.index(name)][place]) for place in places]
            for name in names
        ]


class Answers(NamedTuple):
    """The scores that one expert gave to the answers of some rows.

    Attributes:
      scores: Of each row the log-probabilities of its answers, in nats.
      num_tokens: Of each row the tokens of the answer that the expert wrote; empty
        where rows have choices.
    """

    scores: Sequence[Sequence[float]]
    num_tokens: Sequence[int] = ()


def of_written(answers: Mapping[str, Answers]) -> Behaviour:
    """Returns the behaviour of experts that wrote an answer to each row.

    Args:
      answers: The answers of each expert, by its name.
    """
    log_probs = [
        [row[0] for row in expert_answers.scores] for expert_answers in answers.values()
    ]
    num_tokens = [expert_answers.num_tokens for expert_answers in answers.values()]
    written = behaviour.WrittenScores(np.array(log_probs), np.array(num_tokens))
    return Behaviour(tuple(answers), written)


def _finite(scores: np.ndarray) -> list[float]:
    """Returns the scores of one row without padding."""
    return [float(score) for score in np.atleast_1d(scores) if np.isfinite(score)]


def of(
    scores: Mapping[str, Sequence[npt.ArrayLike]],
    base: Sequence[npt.ArrayLike],
    examples: Sequence[token_store.Example],
) -> Behaviour:
    """Returns the behaviour of experts whose scores are known.

    Args:
      scores: By expert, of each example: float [choices], log-probabilities in nats.
      base: The base's log-probabilities of each example's choices.
      examples: Those that were scored; labels are not read.
    """
    return Behaviour(
        tuple(scores),
        behaviour.ChoiceScores.of(
            [*scores.values()],
            base,
            num_tokens=[np.array([*map(len, x.choices)]) for x in examples],
            answers=[answers.number(x.choices_text) for x in examples],
        ),
    )
