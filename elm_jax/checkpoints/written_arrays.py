"""Writes arrays by TensorStore in the parts that they come in, and items of Orbax."""

import collections
import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from elm_jax import errors
from elm_jax.checkpoints import stores, tensors
from elm_jax.checkpoints.tensors import Leaf

# As Orbax has it; T5X's older format compresses by gzip.
_COMPRESSOR = {"id": "zstd", "level": 1}

_PARTS_AT_ONCE = 2  # of an array, that are compressed and written

OnBytes = Callable[[int], None]
"""Called with the bytes of an array or a part of it, when it has been copied."""


def create(
    kvstore: Any,
    leaf: Leaf,
    dtype: np.dtype,
    compressor: Any,
    *,
    cuts: bool = False,
    replaces: bool = False,
) -> Any:
    """Returns a new zarr array for a leaf, to be written in the leaf's parts.

    Args:
      kvstore: Where it goes.
      leaf: Its shape and the rows of its parts.
      dtype: In which it is written.
      compressor: As zarr has it.
      cuts: Whether large parts are stored in pieces (`chunk_shape`).
      replaces: Whether one that is there gives way; its files are then left to the
        operating system to be written to disk in its own time.
    """
    is_bfloat16 = dtype.name == "bfloat16"
    metadata = {
        "shape": list(leaf.shape),
        "chunks": chunk_shape(leaf) if cuts else _part_shape(leaf),
        "dtype": "bfloat16" if is_bfloat16 else dtype.str,
        "compressor": compressor,
        "dimension_separator": ".",
    }
    spec = {
        "driver": "zarr",
        "kvstore": kvstore,
        "metadata": metadata,
        "store_data_equal_to_fill_value": True,  # see `stores.start_open`
    }
    if replaces:
        spec["context"] = {"file_io_sync": False}
    return ts.open(spec, create=True, open=False, delete_existing=replaces).result()


def compressor_of(dtype: np.dtype) -> Mapping[str, Any] | None:
    """Returns how parameters of an expert are compressed; None if they are not.

    Float32 ones, trained or random, get only 5 to 8 % smaller, and reading them then
    takes the processor three times as long.
    """
    return None if dtype == np.float32 else _COMPRESSOR


def chunk_shape(leaf: Leaf) -> list[int]:
    """Returns the shape of the chunks of a leaf: its parts, or pieces of these.

    >>> chunk_shape(Leaf((24, 2048, 5120), np.dtype(np.float32), 1, lambda: iter(())))
    [1, 512, 5120]
    """
    chunk = _part_shape(leaf)
    for axis in range(1, len(chunk)):
        chunk[axis] = piece(chunk[axis], leaf.dtype.itemsize * math.prod(chunk))
    return chunk


def _part_shape(leaf: Leaf) -> list[int]:
    return [leaf.rows, *leaf.shape[1:]] if leaf.shape else []


def piece(length: int, num_bytes: int) -> int:
    """Returns the length of pieces of an axis, so that chunks are not larger.

    That is its greatest divisor with which they are; the length itself where there is
    none, or only one with which chunks would be tiny.

    >>> piece(2048, 40 * 2**20), piece(2053, 40 * 2**20)
    (512, 2053)

    Args:
      length: Of the axis.
      num_bytes: Of a chunk with all of it.
    """
    most = length * stores.CHUNK_BYTES // max(1, num_bytes)
    divisors = (n for n in range(most, most // 16, -1) if length % n == 0)
    return length if most >= length else next(divisors, length)


class ItemWriter:
    """Writes an Orbax item array by array; Orbax reads it as one of its own.

    Args:
      folder: Of the item; made here.
      goes_on: Whether the folder may be there, from a writer that was killed. Each
        array is then a folder of its own, which a later one replaces or keeps; else
        all arrays are in one database.
      as_t5x: Whether arrays are stored as T5X has them: whole parts, all compressed.
    """

    def __init__(
        self, folder: pathlib.Path, *, goes_on: bool = False, as_t5x: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=goes_on)
        self._folder, self._root = folder, stores.as_url(folder)
        self._goes_on, self._as_t5x = goes_on, as_t5x
        self._tree: dict[str, Any] = {}

    def write(
        self,
        name: str,
        leaf: Leaf,
        dtype: np.dtype,
        value_metadata: Mapping[str, Any],
        on_block: Callable[[np.ndarray], None],
    ) -> None:
        """Writes one array part by part.

        Args:
          name: Its `/`-joined name.
          leaf: Gives the array's parts.
          dtype: In which to write it.
          value_metadata: What Orbax keeps of it, its type above all.
          on_block: Called with each part, in the dtype written.

        Raises:
          CheckpointError: A number is not finite.
        """
        kvstore = self._kvstore(name)
        store = create(
            kvstore,
            leaf,
            dtype,
            _COMPRESSOR if self._as_t5x else compressor_of(dtype),
            cuts=not self._as_t5x,
            replaces=self._goes_on,
        )

        def on_part(block: np.ndarray) -> None:
            tensors.check_finite({name: block}, of="the source")
            on_block(block)

        copy_leaf(store, leaf, dtype, on_part)
        self._list(name, value_metadata)

    def keep(self, name: str, value_metadata: Mapping[str, Any]) -> Leaf:
        """Returns an array that an earlier writer has finished; it is in the item.

        Raises:
          ValueError: The item has no array of this name.
        """
        self._list(name, value_metadata)
        return stores.as_leaf(stores.start_open(self._kvstore(name)).result())

    def _kvstore(self, name: str) -> Any:
        path = f"{'.'.join(name.split('/'))}/"
        if self._goes_on:
            return f"{self._root}{path}"
        return {"driver": "ocdbt", "base": self._root, "path": path}

    def _list(self, name: str, value_metadata: Mapping[str, Any]) -> None:
        keys = name.split("/")
        self._tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": dict(value_metadata),
        }

    def finish(self) -> None:
        """Writes the files that make the folder an Orbax item."""
        facts = {
            "tree_metadata": dict(sorted(self._tree.items())),
            "use_ocdbt": not self._goes_on,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (self._folder / stores.ITEM_FILE).write_text(json.dumps(facts), "utf-8")


def copy_leaf(
    store: Any, leaf: Leaf, dtype: np.dtype, on_block: Callable[[np.ndarray], None]
) -> None:
    """Writes a leaf's parts into an array that `create` made.

    Raises:
      CheckpointError: A part is not of the leaf's shape.
    """
    done, writing = 0, collections.deque()
    try:
        for part in leaf.blocks():
            block = np.ascontiguousarray(tensors.cast(part, dtype)).reshape(part.shape)
            if block.shape[1:] != leaf.shape[1:]:
                raise errors.CheckpointError(
                    found=f"values of shape {block.shape} for one of {leaf.shape}",
                    expected="what the file's own metadata says",
                    do="Copy the checkpoint again: it is torn",
                )
            target = store[done : done + len(block)] if leaf.shape else store
            done += len(block) if leaf.shape else 0
            writing.append(
                target.write(block, can_reference_source_data_indefinitely=True)
            )
            on_block(block)  # while it is compressed and written
            if len(writing) == _PARTS_AT_ONCE:
                writing.popleft().result()
        while writing:
            writing.popleft().result()
    finally:
        for written in writing:  # what is still written would make its folder again
            with contextlib.suppress(Exception):
                written.result()
