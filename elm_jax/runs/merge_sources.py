"""Experts on disk as the sources of a merge: leaves, and marks to order them by."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import digests, manifest, stores, streaming, tensors
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod

AHEAD_BYTES = 1 << 29
"""Of all experts' parts that are read while others are merged, at most."""

# malloc gives what is freed of great parts back to the system (glibc from at most
# 32 MiB on), which maps and clears it again for the next expert's: page faults.
_RUNNING_BYTES = 1 << 22
_MOST_OF_PLACE = 4  # parameters of an adapter, which are read together


class Source(NamedTuple):
    """An expert that is merged.

    Attributes:
      leaves: Its parameters, by name.
      info: The expert's manifest.
      mark: Tells experts apart by their parameters; sums go in its order.
    """

    leaves: Mapping[str, Leaf]
    info: manifest.Manifest
    mark: str


def open_source(
    folder: pathlib.Path, *, block_bytes: int = stores.CHUNK_BYTES
) -> Source:
    """Returns an expert on disk.

    Args:
      folder: The expert's folder.
      block_bytes: Of a part that is read at once, unless what is stored as one is more.

    Raises:
      CheckpointError: It is missing or torn.
    """
    leaves, info = streaming.open_expert(folder, block_bytes=block_bytes)
    mark = digests.recorded_fingerprint(info) or _fingerprint(leaves)
    return Source(leaves, info, mark)


def open_sources(method: MergeMethod, folders: Sequence[pathlib.Path]) -> list[Source]:
    """Returns experts on disk that a method will merge.

    Raises:
      CheckpointError: One is missing or torn.
    """
    block_bytes = part_bytes(method, len(folders))
    return [open_source(folder, block_bytes=block_bytes) for folder in folders]


def part_bytes(method: MergeMethod, num_experts: int) -> int:
    """Returns the bytes of a leaf of each expert that are read at once, where possible.

    Each part that is read takes time, however small it is; but a part of every expert
    is in memory at a time, unless they are added up one after another.
    """
    if isinstance(method, averages.RunningMean):
        return _RUNNING_BYTES
    num_parts = num_experts * (_MOST_OF_PLACE if method.unit == "place" else 1)
    return min(stores.CHUNK_BYTES, AHEAD_BYTES // num_parts)


def open_base(folder: pathlib.Path) -> dict[str, Leaf]:
    """Returns the leaves of a base in float32, as experts are trained on it.

    Raises:
      CheckpointError: It is missing or torn.
    """
    leaves, _ = streaming.open_expert(folder)
    return {name: _as_float32(leaf) for name, leaf in leaves.items()}


def _as_float32(leaf: Leaf) -> Leaf:
    def blocks() -> Iterator[np.ndarray]:
        for block in leaf.blocks():
            yield tensors.cast(block, np.float32)

    return leaf._replace(dtype=np.dtype(np.float32), blocks=blocks)


def _fingerprint(leaves: Mapping[str, Leaf]) -> str:
    digest = trees.Fingerprint()
    for name, leaf in sorted(leaves.items()):
        digest.start(name, leaf.shape, leaf.dtype)
        for block in leaf.blocks():
            digest.add(block)
    return digest.text
