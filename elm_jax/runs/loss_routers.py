"""A strategy that routes a whole task by what experts make of its inputs."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from elm_jax import fields
from elm_jax.routing import behaviour
from elm_jax.runs import queries
from elm_jax.runs.task_router import Ranked, TaskRouter


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByInputLoss(TaskRouter):
    """The experts with the lowest loss on the inputs themselves, by span corruption.

    The rows that ask lose spans of their inputs as in T5's pre-training (1910.10683,
    section 3.1.4), and each expert predicts these. It needs neither labels nor answer
    choices, so that it also routes tasks whose answers are written freely. The loss of
    a row is in nats per token, and rows count alike.

    Attributes:
      random_seed: Of the spans.
      num_experts: How many are taken; of several, the mean.
    """

    kind: ClassVar[str] = "by_input_loss"
    random_seed: fields.Seed = 0

    @property
    def default_name(self) -> str:
        """`by_input_loss`, and how many if they are several."""
        several = f"_top{self.num_experts}" if self.num_experts > 1 else ""
        return f"{self.kind}{several}"

    @property
    def note(self) -> str:
        """Describes the router in a few words, for tables and reports."""
        number = self.num_experts
        choice = f"mean of the {number} experts" if number > 1 else "the expert"
        rule = "with the lowest loss on inputs with missing spans, no labels"
        return self.noted(f"{choice} {rule}")

    @property
    def reads_votes(self) -> bool:
        """False: no votes are counted."""
        return False

    @property
    def reads_inputs(self) -> bool:
        """True: experts predict missing spans of the inputs."""
        return True

    @property
    def ranks_below_0(self) -> bool:
        """True: experts are ranked by log-probabilities."""
        return True

    def num_looked_at(self, num_experts: int) -> int:
        """Returns all."""
        return num_experts

    def ranked(self, question: queries.Question) -> Ranked:
        """Returns all experts, with the log-probability of a missing token.

        Raises:
          DataError: No input has two tokens.
        """
        assert question.missing_spans is not None  # noqa: S101 - it reads inputs
        masked = question.missing_spans(self.random_seed)
        assert masked.score_rows is not None  # noqa: S101 - likewise
        names = [*question.experts]
        log_probs = np.array(masked.score_rows(names, masked.rows))[:, :, 0]
        lengths = [len(masked.dataset[row].targets) for row in masked.rows]
        return ranked(names, log_probs, lengths)


def ranked(
    names: Sequence[str], log_probs: np.ndarray, lengths: Sequence[int]
) -> Ranked:
    """Returns experts with the log-probability of a missing token, greatest first.

    It is minus the loss: a mean over the tokens of each row, and over rows, in nats.

    Args:
      names: Of the experts.
      log_probs: Of the missing spans of each row, in nats: float [experts, rows].
      lengths: The tokens of these, sentinels and end token included: [rows].
    """
    num_tokens = np.broadcast_to(lengths, log_probs.shape)
    scores = behaviour.WrittenScores(log_probs, num_tokens)
    return behaviour.ranked(names, scores, "log_prob_per_token")
