"""Which answers of a ranked row a model can tell apart.

Choices of one text, white space aside, are one answer: `yes, no, no` has two. A model
sees tokens alone, so that answers of the same tokens get the same score from every
model, and whichever is called its prediction is luck or order.
"""

import collections
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

SAME_TEXT = "choices of the same text"
UNKNOWN = "choices with unknown characters only"
CUT = "choices cut to the same tokens"
SAME_TOKENS = "choices of the same tokens"
ONE_CHOICE = "a single choice"


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


class Vocabulary(Protocol):
    """What gave the choices their tokens."""

    @property
    def unknown_id(self) -> int:
        """The id of what no piece covers."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, uncut, without an end token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens."""
        ...


def number(texts: Sequence[str]) -> np.ndarray:
    """Returns the number of each choice's answer: int32 [num_choices], from 0.

    >>> number(["yes", "no", "no "]).tolist()
    [0, 1, 1]
    """
    numbers: dict[str, int] = {}
    plain = [" ".join(text.split()) for text in texts]
    return np.array([numbers.setdefault(t, len(numbers)) for t in plain], np.int32)


def are_any_apart(row: Choices) -> bool:
    """Returns whether a model's score can depend on which choice it is of."""
    return len({choice.tobytes() for choice in row.choices}) > 1


def problem(row: Choices, vocabulary: Vocabulary) -> str:
    """Returns why some choices of a row cannot be told apart, or "" if all can.

    Of several reasons the first counts in the order unknown characters, cut, same
    tokens, same text.

    Args:
      row: One or more choices.
      vocabulary: What gave them their tokens; asked about equal ones only.
    """
    if len(row.choices) == 1:
        return ONE_CHOICE
    groups: dict[bytes, list[int]] = {}
    for position, choice in enumerate(row.choices):
        groups.setdefault(choice.tobytes(), []).append(position)
    found: set[str] = set()
    for positions in groups.values():
        if len(positions) > 1:
            found.add(_reason([row.choices_text[i] for i in positions], vocabulary))
    order = (UNKNOWN, CUT, SAME_TOKENS, SAME_TEXT)
    return next((reason for reason in order if reason in found), "")


def problems(rows: Iterable[Choices], vocabulary: Vocabulary) -> dict[str, int]:
    """Returns how many rows have choices that cannot be told apart, by reason.

    The commonest comes first.
    """
    counts = collections.Counter(problem(row, vocabulary) for row in rows)
    del counts[""]
    return dict(counts.most_common())


def _reason(texts: Sequence[str], vocabulary: Vocabulary) -> str:
    """Returns why choices of these texts have the same tokens."""
    if not number(texts).any():
        return SAME_TEXT
    whole = {tuple(vocabulary.encode(text)) for text in texts}
    if len(whole) > 1:
        return CUT
    known = [token for token in whole.pop() if token != vocabulary.unknown_id]
    return SAME_TOKENS if vocabulary.decode(known).strip() else UNKNOWN
