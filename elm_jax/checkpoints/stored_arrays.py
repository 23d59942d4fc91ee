"""Tensors of a folder that are read when their values are asked for, and not kept."""

import math
from typing import Any

import numpy as np

from elm_jax.checkpoints import tensors


class StoredArray:
    """An array on disk, to be given to NumPy: `np.asarray(array)` reads it.

    Each call reads it anew and compares it with its digest, if the leaf does
    (`streaming.open_expert`). While it is read, no more than the result and one part
    of it is in memory, 16 MiB or one stored chunk, also where the result has another
    dtype.

    Args:
      leaf: Gives shape, dtype and values.

    Attributes:
      shape: The array's shape.
      dtype: On disk; numpy's, bfloat16 included.
    """

    def __init__(self, leaf: tensors.Leaf) -> None:
        self._leaf = leaf
        self.shape, self.dtype = leaf.shape, leaf.dtype

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes in memory in its own dtype."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns the values in a dtype, its own by default; in memory of their own.

        Raises:
          ValueError: `copy` is False.
          CheckpointError: The values are not those that were saved.
        """
        if copy is False:
            raise ValueError("an array on disk has to be copied into memory")
        target = self.dtype if dtype is None else np.dtype(dtype)
        if not self.shape:
            return tensors.cast(tensors.read(self._leaf), target)
        values, start = np.empty(self.shape, target), 0
        for block in self._leaf.blocks():
            if block.shape == self.shape and block.dtype == target:
                values = block
            else:
                values[start : start + len(block)] = tensors.cast(block, target)
            start += len(block)
        return values

    def __repr__(self) -> str:
        """Returns shape and dtype; reads nothing."""
        return f"<{self.dtype.name}{list(self.shape)} on disk>"
