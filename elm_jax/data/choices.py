"""Rows whose answer choices a model cannot tell apart, by reason.

Choices of the same tokens get the same score from every model.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence

from elm_jax.data import vocabulary as vocabularies
from elm_jax.types import EOS_ID

SAME_TEXT = "choices of the same text"
UNKNOWN = "choices with unknown characters only"
CUT = "choices cut to the same tokens"
SAME_TOKENS = "choices of the same tokens"
# If a row has several reasons, the first of these counts.
_ORDER = (UNKNOWN, CUT, SAME_TOKENS, SAME_TEXT)


def count_problems(
    rows: Iterable[tuple[str, ...]],
    encoded: Mapping[str, Sequence[int]],
    vocabulary: vocabularies.SentencePiece,
    *,
    limit: int | None,
) -> collections.Counter[str]:
    """Returns how many rows have choices that cannot be told apart, by reason.

    Args:
      rows: The choices of each row; rows without choices are skipped.
      encoded: Tokens of each choice, uncut, with the end token.
      vocabulary: The vocabulary of these tokens.
      limit: Tokens to which choices are cut, or None.
    """
    counts: collections.Counter[str] = collections.Counter()
    for choices, num_rows in collections.Counter(rows).items():
        tokens = [encoded[choice] for choice in choices]
        reason = problem(choices, tokens, vocabulary, limit=limit)
        if reason:
            counts[reason] += num_rows
    return counts


def problem(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    vocabulary: vocabularies.SentencePiece,
    *,
    limit: int | None,
) -> str:
    """Returns why some choices of a row cannot be told apart, or "" if all can."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(tokens):
        is_cut = limit is not None and len(row) > limit
        kept_tokens = (*row[: limit - 1], EOS_ID) if limit and is_cut else tuple(row)
        groups.setdefault(kept_tokens, []).append(place)
    if len(groups) == len(tokens):
        return ""
    reasons: set[str] = set()
    for places in groups.values():
        if len(places) > 1:
            same_texts = [texts[place] for place in places]
            whole = {tuple(tokens[place]) for place in places}
            reasons.add(_reason(same_texts, whole, vocabulary))
    return next(reason for reason in _ORDER if reason in reasons)


def _reason(
    texts: Sequence[str],
    whole: set[tuple[int, ...]],
    vocabulary: vocabularies.SentencePiece,
) -> str:
    """Returns why choices of these texts have the same tokens."""
    if len({" ".join(text.split()) for text in texts}) == 1:
        return SAME_TEXT
    if len(whole) > 1:
        return CUT
    covered = [token for token in whole.pop() if token != vocabulary.unknown_id]
    return SAME_TOKENS if vocabulary.decode(covered).strip() else UNKNOWN
