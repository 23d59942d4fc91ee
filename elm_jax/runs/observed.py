"""How the experts of a library answer the unlabelled rows of a task."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elm_jax.data import token_store
from elm_jax.evaluation import answers
from elm_jax.routing import behaviour


class Behaviour(NamedTuple):
    """What experts think of the answer choices of some rows.

    Attributes:
      names: Of the experts.
      scores: What they and the base give to the choices.
    """

    names: tuple[str, ...]
    scores: behaviour.ChoiceScores

    def ranked(
        self, statistic: behaviour.Statistic, among: Collection[str]
    ) -> tuple[tuple[str, float], ...]:
        """Returns some of the experts with a statistic; see `behaviour.ranked`.

        Raises:
          DataError: The statistic needs rows with two answers, and there is none.
        """
        every = behaviour.ranked(self.names, self.scores, statistic)
        return tuple(pair for pair in every if pair[0] in among)


def of(
    scores: Mapping[str, Sequence[npt.ArrayLike]],
    base: Sequence[npt.ArrayLike],
    examples: Sequence[token_store.Example],
) -> Behaviour:
    """Returns the behaviour of experts whose scores are known.

    Args:
      scores: By expert, of each example: float [choices], log-probabilities in nats.
      base: The same of the base.
      examples: Those that were scored; labels are not read.
    """
    return Behaviour(
        tuple(scores),
        behaviour.ChoiceScores.of(
            [*scores.values()],
            base,
            num_tokens=[np.array([*map(len, one.choices)]) for one in examples],
            answers=[answers.number(one.choices_text) for one in examples],
        ),
    )
