"""Parts of leaves that are read side by side, and ahead of who needs them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from elm_jax.checkpoints.tensors import Leaf

_READERS = 2  # Each holds a part as it is stored beside the part that it makes of it.


def steps(leaves: Sequence[Leaf], rows: int) -> Iterator[list[np.ndarray]]:
    """Yields parts of all leaves that cover the same rows, until all are read."""
    step = common_rows(leaves, rows)
    parts = [regrouped(leaf, step) for leaf in leaves]
    with futures.ThreadPoolExecutor(_READERS) as pool:
        while True:
            # At the end each leaf is asked once more: it compares itself then.
            blocks = [block for block in pool.map(_next, parts) if block is not None]
            if not blocks:
                return
            yield blocks
            del blocks


def regrouped(leaf: Leaf, rows: int) -> Iterator[np.ndarray]:
    """Yields the parts of a leaf, so many rows at once."""
    waiting: list[np.ndarray] = []
    for block in leaf.blocks():
        waiting.append(block)
        if not leaf.shape or sum(map(len, waiting)) >= rows:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def common_rows(leaves: Sequence[Leaf], rows: int) -> int:
    """Returns rows of which each leaf's own, and those of the result, are parts."""
    length = leaves[0].shape[0] if leaves[0].shape else 1
    return min(max(1, length), math.lcm(rows, *(leaf.rows or 1 for leaf in leaves)))


def row_bytes(leaf: Leaf) -> int:
    """Returns the bytes of a leaf for each place on axis 0."""
    return math.prod(leaf.shape[1:]) * leaf.dtype.itemsize


def ahead(parts: Iterable[Any]) -> Iterator[Any]:
    """Yields what an iterable gives; a thread makes the next one meanwhile."""
    iterator, end = iter(parts), object()
    with futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (part := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield part
            del part


def _next(parts: Iterator[np.ndarray]) -> np.ndarray | None:
    return next(parts, None)


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
