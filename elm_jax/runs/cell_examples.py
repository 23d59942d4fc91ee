"""The answers to the examples of a cell, as they were scored."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from elm_jax.data import token_store
from elm_jax.runs import scorer


class Answer(NamedTuple):
    """An answer: a text that was written, or the place of a choice.

    Attributes:
      written: The text; "" where a choice was made.
      is_cut: Whether it had no end at the greatest length.
      chosen: The place of the choice; -1 where a text was written.
      log_probabilities: One for each choice, in nats; per token if that was asked for.
    """

    written: str
    is_cut: bool
    chosen: int
    log_probabilities: tuple[float, ...]


def answers(arrays: Mapping[str, np.ndarray]) -> Iterator[Answer]:
    """Yields the answers of a per-example file in its order."""
    if scorer.TEXTS in arrays:
        texts = token_store.Ragged(arrays[scorer.TEXTS], arrays[scorer.TEXT_OFFSETS])
        for i in range(len(texts.lengths)):
            yield Answer(texts.text(i), bool(arrays["answers_cut"][i]), -1, ())
        return
    ends = np.cumsum(arrays["num_choices"])
    for scores, chosen in zip(
        np.split(arrays["scores"], ends[:-1]), arrays["predictions"], strict=True
    ):
        yield Answer("", False, int(chosen), tuple(map(float, scores)))
