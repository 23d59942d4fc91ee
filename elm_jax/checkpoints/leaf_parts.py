"""Parts of leaves that are read side by side, and ahead of who needs them."""

import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.checkpoints.tensors import Leaf

_READERS = 2  # TensorStore decompresses each one's chunks in threads of its own.
_AHEAD = 4  # parts of the next iterators: those that wait for the disk are many


def steps(leaves: Sequence[Leaf], rows: int) -> Iterator[list[np.ndarray]]:
    """Yields parts of all leaves that cover the same rows, until all are read.

    Args:
      leaves: Of equal lengths on axis 0.
      rows: Of each part but perhaps the last.

    Raises:
      CheckpointError: A leaf ends before the others.
    """
    parts = [cut(leaf, rows) for leaf in leaves]
    with futures.ThreadPoolExecutor(min(len(leaves), _READERS)) as pool:
        while True:
            # At the end each leaf is asked once more: it compares itself then.
            blocks = [block for block in pool.map(_next, parts) if block is not None]
            if not blocks:
                return
            if len(blocks) != len(leaves):
                raise errors.CheckpointError(
                    found=f"parts of {len(blocks)} of {len(leaves)} leaves, and no more"
                    " of the others",
                    expected="leaves of equal lengths",
                    do="Look for an expert whose folder was changed, and save it again",
                )
            yield blocks
            del blocks


def cut(leaf: Leaf, rows: int) -> Iterator[np.ndarray]:
    """Yields the values of a leaf in parts of another number of rows.

    A part within one of the leaf's own is a view of it. `held_rows` tells how much is
    in memory.
    """
    if leaf.rows == rows:  # nothing is kept of parts between two of them
        yield from leaf.blocks()
        return
    waiting: list[np.ndarray] = []
    for block in leaf.blocks():
        if not leaf.shape:
            yield block
            continue
        first_edge = rows - sum(map(len, waiting))
        edges = [0, *range(first_edge, len(block), rows), len(block)]
        pairs = itertools.pairwise(edges)
        pieces = collections.deque(block[a:b] for a, b in pairs if b > a)
        del block  # nothing but its pieces keep it
        while pieces:
            waiting.append(pieces.popleft())
            if sum(map(len, waiting)) == rows:
                yield _joined(waiting)
    if waiting:
        yield _joined(waiting)


def held_rows(leaf: Leaf, rows: int) -> int:
    """Returns how many rows of a leaf are in memory, at most, where it is cut.

    Where neither length divides the other, a part is joined of two that stay.

    Args:
      leaf: As it is stored.
      rows: Of each part.
    """
    own_rows = max(1, leaf.rows)
    if rows % own_rows and own_rows % rows:
        return rows + 2 * own_rows
    return max(rows, own_rows)


def row_bytes(leaf: Leaf) -> int:
    """Returns the bytes of a leaf for each place on axis 0."""
    return math.prod(leaf.shape[1:]) * leaf.dtype.itemsize


def ahead(parts: Iterable[Any]) -> Iterator[Any]:
    """Yields what an iterable gives; a thread makes the next one meanwhile."""
    iterator, end = iter(parts), object()
    with futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, iterator, end)
        while (part := future.result()) is not end:
            future = pool.submit(next, iterator, end)
            yield part
            del part


def next_of_each(iterators: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """Yields the next part of each iterator; None for an iterator that has ended.

    Threads make those of the following iterators meanwhile, so that one waits for the
    disk while another one's part is decompressed.
    """
    with futures.ThreadPoolExecutor(_AHEAD) as pool:
        pending: collections.deque[futures.Future[Any]] = collections.deque()
        for iterator in iterators:
            pending.append(pool.submit(_next, iterator))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _next(parts: Iterator[np.ndarray]) -> np.ndarray | None:
    return next(parts, None)


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    """Returns blocks as one, and takes them out of the list."""
    joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    blocks.clear()
    return joined
