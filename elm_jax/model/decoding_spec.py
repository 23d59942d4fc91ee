"""How target tokens are chosen, as data: greedy, beam search or sampling."""

import dataclasses
from typing import Literal

from elm_jax import fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """The most likely token at each position."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """The best of several hypotheses per input, kept side by side.

    Two published searches go by one name and give other tokens:

    - "huggingface": a hypothesis scores its log-probability / n ** length_penalty; n
      counts its tokens with the end token, not the start. Only the `num_beams` best
      continuations of a position may end, and hypotheses cut at the greatest length
      compete with those that ended.
    - "t5x": it scores log-probability / ((5 + n) / 6) ** length_penalty. Any of the
      2 * `num_beams` best continuations may end, and one that was cut counts only
      if none ended. T5X's own default penalty is 0.6.

    Attributes:
      num_beams: Hypotheses per input; one is greedy decoding under the rules of
        "huggingface", as there.
      rules: "huggingface" or "t5x", see above.
      length_penalty: Greater favours longer targets; 0 ignores length, and negative
        values favour short targets.
      early_stopping: When the search of an input ends, once `num_beams` hypotheses
        have. True: at once. False: when the best open beam, scored at its present
        length, is no better than the worst of them. "never": the same, with the
        open beam scored at the length that serves it best; the exact rule, and the
        only one of "t5x".
    """

    num_beams: fields.Count = 4
    rules: Literal["huggingface", "t5x"] = "huggingface"
    length_penalty: fields.Finite = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a search that cannot be done."""
        fields.check(self)
        wrong = {}
        if self.rules == "t5x" and self.length_penalty < 0:
            wrong["length_penalty"] = "at least 0 under the rules of t5x"
        if self.rules == "t5x" and self.early_stopping != "never":
            wrong["early_stopping"] = "'never' under the rules of t5x"
        fields.refuse(self, wrong)

    @property
    def is_greedy(self) -> bool:
        """Whether the rules make greedy decoding of this search."""
        return self.rules == "huggingface" and self.num_beams == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """A token drawn from the model's distribution at each position.

    The draws of a row depend on the seed, its example's id and the position alone:
    not on the batch, its size or the order of examples.

    Attributes:
      temperature: Divides the logits; below 1 sharpens the distribution. For the most
        likely token there is `Greedy`.
      top_k: How many of the most likely tokens may be drawn; 0 for all. Of equal
        ones at the border those with the lowest ids.
      top_p: Then, of what `top_k` left, the fewest of the most likely tokens whose
        share is at least this; 1 for all.
      seed: Of the draws.
    """

    temperature: fields.Positive = 1.0
    top_k: fields.CountOrNone = 0
    top_p: fields.ShareAboveZero = 1.0
    seed: fields.Seed = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a distribution that does not exist."""
        fields.check(self)


DecodingSpec = Greedy | BeamSearch | Sampling
GREEDY = Greedy()
