"""What the answers of a ranked row are, and whether a model can tell any apart.

Choices of one text, white space aside, are one answer: `yes, no, no` has two. A model
sees tokens alone, so that answers of the same tokens get the same score from every
model, and whichever is called its prediction is luck or order.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Choices(Protocol):
    """The answer choices of a row."""

    @property
    def choices(self) -> Sequence[np.ndarray]:
        """One int32 [length] per choice, the end token included."""
        ...

    @property
    def choices_text(self) -> Sequence[str]:
        """Their texts, uncut."""
        ...


def number(texts: Sequence[str]) -> np.ndarray:
    """Returns the number of each choice's answer: int32 [num_choices], from 0.

    >>> number(["yes", "no", "no "]).tolist()
    [0, 1, 1]
    """
    numbers: dict[str, int] = {}
    plain = [" ".join(text.split()) for text in texts]
    return np.array([numbers.setdefault(t, len(numbers)) for t in plain], np.int32)


def firsts(texts: Sequence[str]) -> np.ndarray:
    """Returns the place of the first choice of each one's answer: int32 [num_choices].

    >>> firsts(["yes", "no", "no ", "perhaps"]).tolist()
    [0, 1, 1, 3]
    """
    _, places, numbers = np.unique(
        number(texts), return_index=True, return_inverse=True
    )
    return places[numbers].astype(np.int32)


def are_equal_among(texts: Sequence[str]) -> bool:
    """Returns whether two choices or more are one answer.

    >>> are_equal_among(["yes", "no"]), are_equal_among(["yes", "no", "no "])
    (False, True)
    """
    return len({*number(texts).tolist()}) < len(texts)


def are_any_apart(row: Choices) -> bool:
    """Returns whether choices differ, so that a model's scores of them can differ."""
    return len({choice.tobytes() for choice in row.choices}) > 1
