"""Counts that a token cache records: lengths, cut texts, and unknown tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.data import tasks, token_store

TOKENS = ("inputs", "targets", "choices")
_PERCENTILES = (0, 50, 90, 99, 100)
# With a greater share of cut targets, a model would mostly learn their beginnings.
_MAX_CUT_TARGETS = 0.5


def limits_of(features: tasks.Features | None) -> dict[str, int]:
    """Returns the most tokens of each of `TOKENS`; nothing for plain text."""
    if features is None:
        return {}
    longest = features.targets_length
    return {"inputs": features.inputs_length, "targets": longest, "choices": longest}


def count_unknown(
    columns: token_store.Columns, unknown_id: int
) -> dict[str, dict[str, int]]:
    """Returns unknown tokens by column: how many `tokens`, in how many `examples`.

    A text with characters that the vocabulary lacks looks the same to a model as many
    others. What was cut off is not counted.
    """
    counts = {}
    for name in TOKENS:
        column: token_store.Ragged = getattr(columns, name)
        positions = np.flatnonzero(np.asarray(column.values) == unknown_id)
        rows = np.unique(np.searchsorted(column.offsets, positions, side="right") - 1)
        if name == "choices":
            rows = np.unique(np.searchsorted(columns.choices_of, rows, side="right"))
        counts[name] = {"examples": len(rows), "tokens": len(positions)}
    return counts


def summed_unknown(
    parts: Sequence[Mapping[str, Mapping[str, int]]],
) -> dict[str, dict[str, int]]:
    """Returns the counts of several parts together."""
    return {
        name: {
            kind: sum(part[name][kind] for part in parts)
            for kind in ("examples", "tokens")
        }
        for name in TOKENS
    }


def count_lengths(
    subject: str, lengths: Mapping[str, np.ndarray], features: tasks.Features | None
) -> dict[str, Any]:
    """Returns how many were cut, and percentiles of lengths, as JSON values.

    Raises:
      DataError: Most targets or choices are cut.
    """
    limits = limits_of(features)
    counts = {
        "cut": {n: int(np.sum(lengths[n] > limit)) for n, limit in limits.items()},
        "length_percentiles": {n: percentiles(lengths[n]) for n in lengths},
    }
    if features is not None:
        _check_cut(subject, counts, lengths, features)
    return counts


def percentiles(lengths: np.ndarray) -> dict[str, int]:
    """Returns the shortest, middle, 90 %, 99 % and longest length, by percent."""
    if not len(lengths):
        return {}
    values = np.percentile(lengths, _PERCENTILES, method="higher")
    return {str(p): int(v) for p, v in zip(_PERCENTILES, values, strict=True)}


def _check_cut(
    subject: str,
    counts: dict[str, Any],
    lengths: Mapping[str, np.ndarray],
    features: tasks.Features,
) -> None:
    """Raises a DataError if most targets or choices are cut; inputs only count."""
    for name in ("targets", "choices"):
        total = max(len(lengths[name]), 1)
        if counts["cut"].get(name, 0) > _MAX_CUT_TARGETS * total:
            longest = counts["length_percentiles"][name]
            raise errors.DataError(
                found=f"{counts['cut'][name]} of {total} {name} in {subject} are "
                f"longer than targets_length={features.targets_length} tokens",
                expected=f"room for most: half have {longest['50']} tokens, "
                f"90 % have {longest['90']}, the longest {longest['100']}",
                do="Set targets_length (TASK_FEATURE_LENGTHS) higher",
            )
