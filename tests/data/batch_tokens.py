"""Tokens of an epoch's batches, and how many of them are padding."""

import numpy as np

from elm_jax.data import batches

SIDES = ("encoder_input_tokens", "decoder_target_tokens")


def num_real(source: batches.BatchSource) -> int:
    """Returns how many tokens of the first epoch are not padding."""
    return sum(_counts(source)[0])


def real_share(source: batches.BatchSource) -> float:
    """Returns the share of the first epoch's tokens that are not padding."""
    real, padded = _counts(source)
    return sum(real) / sum(padded)


def _counts(source: batches.BatchSource) -> tuple[list[int], list[int]]:
    sides = [
        source.batch(step)[side]
        for step in range(source.num_batches_per_epoch)
        for side in SIDES
    ]
    return [int(np.count_nonzero(side)) for side in sides], [s.size for s in sides]
