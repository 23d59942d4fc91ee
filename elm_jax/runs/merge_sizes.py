"""How much of leaves is read, merged and written at once."""

from elm_jax.checkpoints import experts, leaf_parts
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_sources
from elm_jax.types import LAYERS

PIECE_BYTES = 1 << 24
"""Of a merged leaf at once, unless a layer of it is larger; so parts are stored."""


def piece_rows(name: str, leaf: Leaf, *, splits: bool) -> int:
    """Returns the number of rows in a part of a merged leaf.

    Args:
      name: Of the leaf.
      leaf: Its shape and dtype.
      splits: Whether matrices may be cut.
    """
    if not leaf.shape:
        return 1
    row_bytes = leaf_parts.row_bytes(leaf)
    most = max(1, PIECE_BYTES // max(1, row_bytes))
    if is_stack(name):
        most = most if splits and row_bytes < experts.LAYER_BYTES else 1
    elif not splits:
        most = leaf.shape[0]
    return max(1, min(most, leaf.shape[0]))


def step_rows(method: MergeMethod, leaf: Leaf, rows: int, num_experts: int) -> int:
    """Returns how many rows are read and merged at once, a multiple of `rows`.

    Args:
      method: How experts are merged.
      leaf: Its shape and dtype.
      rows: Rows in a part of the merged leaf: from `piece_rows`.
      num_experts: How many there are.
    """
    if not leaf.shape:
        return 1
    piece_bytes = max(1, rows * leaf_parts.row_bytes(leaf))
    times = merge_sources.part_bytes(method, num_experts) // piece_bytes
    return max(rows, min(times * rows, leaf.shape[0]))


def is_stack(name: str) -> bool:
    """Returns whether a leaf holds a stack of layers on axis 0."""
    return f"/{LAYERS}/" in name
