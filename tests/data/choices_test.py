"""Choices that cannot be told apart; the evaluator judges the same rows alike."""

import dataclasses

import numpy as np
import pytest

from elm_jax.data import choices
from elm_jax.evaluation import answers

# Texts, most tokens, and what is wrong with them.
CASES = [
    (("red", "green"), None, ""),
    (("red", "green", "red"), None, choices.SAME_TEXT),
    (("a  house", "red", "a house"), None, choices.SAME_TEXT),
    (("漢", "字"), None, choices.UNKNOWN),
    (("漢字", "red"), None, ""),
    (("red 漢", "red 字"), None, choices.SAME_TOKENS),
    (("the green house", "the green river"), 3, choices.CUT),
    (("the green house", "the green river"), 30, ""),
    (("red", "red", "漢", "字"), None, choices.UNKNOWN),
]


@pytest.mark.parametrize(("texts", "limit", "expected"), CASES)
def test_the_reason_is_the_evaluators_too(vocab, texts, limit, expected):
    encoded = {text: [*vocab.encode(text), 1] for text in texts}
    counts = choices.count_problems([texts, (), texts], encoded, vocab, limit=limit)
    assert counts == ({expected: 2} if expected else {})

    @dataclasses.dataclass
    class Row:
        choices: tuple[np.ndarray, ...]
        choices_text: tuple[str, ...]

    cut = [
        row if not limit or len(row) <= limit else [*row[: limit - 1], 1]
        for row in encoded.values()
    ]
    by_text = dict(zip(encoded, cut, strict=True))
    row = Row(tuple(np.array(by_text[text], np.int32) for text in texts), texts)
    assert answers.problem(row, vocab) == expected
