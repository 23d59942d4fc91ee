"""How target tokens are chosen, as data: greedy, beam search or sampling."""

import dataclasses
import math
from typing import Any, Literal

from elm_jax import errors


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

    num_beams: int = 4
    rules: Literal["huggingface", "t5x"] = "huggingface"
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a search that cannot be done."""
        wrong = _not_counts(self, "num_beams", least=1)
        if self.rules not in ("huggingface", "t5x"):
            wrong["rules"] = "huggingface or t5x"
        if not _is_finite(self.length_penalty):
            wrong["length_penalty"] = "a finite number"
        elif self.rules == "t5x" and self.length_penalty < 0:
            wrong["length_penalty"] = "at least 0 under the rules of t5x"
        modes = ("never",) if self.rules == "t5x" else (True, False, "never")
        if not any(self.early_stopping is mode for mode in modes[:-1]) and (
            self.early_stopping != "never"
        ):
            wrong["early_stopping"] = " or ".join(map(repr, modes))
        _refuse(self, wrong)

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
      temperature: Divides the logits; below 1 sharpens the distribution.
      top_k: How many of the most likely tokens may be drawn; 0 for all. Of equal
        ones at the border those with the lowest ids.
      top_p: Then, of what `top_k` left, the fewest of the most likely tokens whose
        share is at least this; 1 for all.
      seed: Of the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a distribution that does not exist."""
        wrong = _not_counts(self, "top_k", "seed", least=0)
        if "seed" not in wrong and self.seed >= 2**32:
            wrong["seed"] = "a whole number below 2 ** 32"
        if not _is_finite(self.temperature) or self.temperature <= 0:
            wrong["temperature"] = "a number above 0; for the most likely token, Greedy"
        if not _is_finite(self.top_p) or not 0 < self.top_p <= 1:
            wrong["top_p"] = "a share in (0, 1]"
        _refuse(self, wrong)


DecodingSpec = Greedy | BeamSearch | Sampling
GREEDY = Greedy()


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _not_counts(spec: Any, *names: str, least: int) -> dict[str, str]:
    values = {name: getattr(spec, name) for name in names}
    return {
        name: f"a whole number of at least {least}"
        for name, value in values.items()
        if type(value) is not int or value < least
    }


def _refuse(spec: Any, wrong: dict[str, str]) -> None:
    if wrong:
        raise errors.ConfigError(
            errors.explain(
                found=", ".join(f"{n} = {getattr(spec, n)!r}" for n in wrong),
                expected="; ".join(f"{n}: {text}" for n, text in wrong.items()),
                do=f"Correct these fields of {type(spec).__name__}",
            )
        )
