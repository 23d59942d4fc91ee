"""Choices that cannot be told apart, by reason."""

import pytest

from elm_jax.data import choices

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
def test_each_way_of_being_alike_has_its_reason(vocab, texts, limit, expected):
    encoded = {text: [*vocab.encode(text), 1] for text in texts}
    counts = choices.count_problems([texts, (), texts], encoded, vocab, limit=limit)
    assert counts == ({expected: 2} if expected else {})
