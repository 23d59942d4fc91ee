"""Ragged token rows to few static shapes, and results back in the order asked."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from elm_jax import types

Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


def round_up(size: int, *, least: int) -> int:
    """Returns the next static size: `least` times 1, 1.5, 2, 3, 4, 6, 8, 12, ...

    Every shape is a compile, so sizes come from a ladder that does not depend on
    the data; padding stays below half of a size, a quarter of it on average.

    Args:
      size: The size needed, at least 0.
      least: The smallest size; even.

    >>> [round_up(size, least=32) for size in (1, 33, 49, 65, 97, 129)]
    [32, 48, 64, 96, 128, 192]
    """
    while size > least:
        if size <= least + least // 2:
            return least + least // 2
        least *= 2
    return least


def pad(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Returns int32 [len(rows), length] of token rows, padded at the end.

    >>> pad([np.array([5, 6]), np.array([7])], 3).tolist()
    [[5, 6, 0], [7, 0, 0]]
    """
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), length), types.PAD_ID, np.int32)
    padded[np.arange(length) < lengths[:, np.newaxis]] = np.concatenate(rows)
    return padded


def cut(keys: Sequence[Any], batch_size: int) -> list[np.ndarray]:
    """Returns the positions of each batch: neighbours when sorted by key.

    A last batch that is too small repeats its last position, so that all have one
    size; the batches hold the same items in whatever order `keys` come.

    >>> [batch.tolist() for batch in cut([3, 1, 2], 2)]
    [[1, 2], [0, 0]]
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    order += [order[-1]] * (-len(order) % batch_size)
    return list(np.array(order).reshape(-1, batch_size))


def run(
    fn: Callable[..., Any],
    batches: Sequence[np.ndarray],
    arguments: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    *,
    total: int,
    progress: Progress | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (position, result row) for every position of the batches.

    A result is read only after the next batch is dispatched, so that the host
    pads rows while the device computes.

    Args:
      fn: Maps the arrays of a batch to an array with one row per position.
      batches: Positions, as `cut` gives them.
      arguments: Maps a batch's positions to the arrays for `fn`.
      total: Number of different positions, for `progress`.
      progress: Called after every batch.
    """
    done = 0
    pending: tuple[np.ndarray, Any] | None = None
    for positions in (*batches, None):
        next_one = None
        if positions is not None:
            next_one = (positions, fn(*arguments(positions)))
        if pending is not None:
            yield from zip(pending[0].tolist(), np.asarray(pending[1]), strict=True)
            done = min(done + len(pending[0]), total)
            if progress:
                progress(done, total)
        pending = next_one
