"""Reads folders of arrays by TensorStore: on disk or in a bucket, as Orbax items."""

import functools
import math
import pathlib
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NotRequired, TypedDict

import numpy as np
import tensorstore as ts

from elm_jax import paths
from elm_jax.checkpoints.tensors import Leaf, Tensor
from elm_jax.disk import json_files

ITEM_FILE = "_METADATA"
CHUNK_BYTES = 1 << 24
"""Of an array that are stored as one, at most, where its shape can be divided so.

Chunks are compressed side by side, and memory of this size is used again, while each
larger piece is taken from the system anew, which takes longer than reading it.
"""

_INFLATED_BYTES = 1 << 22  # at once, where a stream is only looked through


class _Key(TypedDict):
    key: str | int


class _Entry(TypedDict):
    key_metadata: tuple[_Key, ...]


class _Facts(TypedDict):
    """What is read of an item's `_METADATA`."""

    tree_metadata: dict[str, _Entry]
    use_zarr3: NotRequired[bool | None]
    use_ocdbt: NotRequired[bool]


def as_url(place: str | pathlib.Path) -> str:
    """Returns the URL of a folder, given by path or URL; it ends with a slash.

    >>> as_url("/tmp/a b"), as_url("gs://bucket/checkpoint_3")
    ('file:///tmp/a%20b/', 'gs://bucket/checkpoint_3/')
    """
    text = str(place)
    if not paths.is_url(text):
        text = paths.absolute(text).as_uri()
    return text if text.endswith("/") else f"{text}/"


def read_bytes(root: str, key: str) -> bytes | None:
    """Returns the content of a file below a folder's URL, None if there is none.

    Raises:
      IsADirectoryError: There is a folder of this name on disk.
    """
    result = ts.KvStore.open(root).result().read(key).result()
    if result.state == "value":
        return result.value
    _, is_local, path = root.partition("file://")
    if is_local and pathlib.Path(urllib.parse.unquote(path), key).is_dir():
        raise IsADirectoryError(f"{key} is a folder")
    return None


def list_names(root: str) -> list[str]:
    """Returns the names of files and folders right below a folder's URL."""
    keys = ts.KvStore.open(root).result().list().result()
    return sorted({key.decode(errors="replace").partition("/")[0] for key in keys})


def start_open(kvstore: Any, *, driver: str = "zarr") -> Any:
    """Returns the future of a stored array; `finish_open` takes it.

    A part that is not there is an error when read: TensorStore would take it for
    zeros, and a checkpoint copied in part for a whole one.
    """
    spec = {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}
    return ts.open(spec, open=True, read=True)


def finish_open(future: Any) -> Tensor:
    """Returns a stored array, of which only the metadata has been read."""
    store = future.result()

    def read() -> np.ndarray:
        array = np.asarray(store.read().result())
        _check_ends(store)
        return array

    return Tensor(tuple(store.shape), store.dtype.numpy_dtype, read)


def _check_ends(store: Any) -> None:
    """Raises ValueError if a file of an array compressed by gzip ends early or late.

    TensorStore takes what it can decompress, and looks at no checksum then; of metadata
    it takes the first JSON value.
    """
    facts = store.spec(retain_context=False).to_json().get("metadata", {})
    if (facts.get("compressor") or {}).get("id") not in ("gzip", "zlib"):
        return
    for key in store.kvstore.list().result():
        compressed = store.kvstore.read(key).result().value
        if key.rpartition(b"/")[2].startswith(b".z"):  # metadata
            json_files.parse(compressed)
            continue
        stream = zlib.decompressobj(wbits=47)  # with the header of either
        while compressed and not stream.eof:
            stream.decompress(compressed, _INFLATED_BYTES)
            compressed = stream.unconsumed_tail
        if not stream.eof or stream.unused_data:
            raise ValueError(f"{key.decode(errors='replace')} does not end as gzip")


def open_item(
    root: str, is_wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, Tensor]:
    """Returns the arrays of an Orbax item by `/`-joined name, in sorted order.

    Args:
      root: URL of the item's folder.
      is_wanted: Says by name which arrays to open.

    Raises:
      KeyError, ValueError: It is no item, or a torn one.
    """
    return {name: finish_open(future) for name, future in _start(root, is_wanted)}


def open_leaves(root: str, *, block_bytes: int = CHUNK_BYTES) -> dict[str, Leaf]:
    """Returns the leaves of an Orbax item, as `open_item` does.

    Args:
      root: URL of the item's folder.
      block_bytes: Of a part that is read at once, unless what is stored as one is more.
    """
    opening = _start(root, lambda _: True)
    return {
        name: as_leaf(future.result(), block_bytes=block_bytes)
        for name, future in opening
    }


def _start(root: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, Any]]:
    content = read_bytes(root, ITEM_FILE)
    if content is None:
        raise ValueError(f"no {ITEM_FILE} in {root}")
    facts = _facts(content)
    driver = "zarr3" if facts.get("use_zarr3") else "zarr"
    opening = {}
    for entry in facts["tree_metadata"].values():
        keys = [str(part["key"]) for part in entry["key_metadata"]]
        kvstore: Any = f"{root}{'.'.join(keys)}/"
        if facts.get("use_ocdbt", True):
            kvstore = {"driver": "ocdbt", "base": root, "path": f"{'.'.join(keys)}/"}
        name = "/".join(keys)
        if is_wanted(name):
            opening[name] = start_open(kvstore, driver=driver)
    return sorted(opening.items())


@functools.lru_cache(maxsize=16)
def _facts(content: bytes) -> _Facts:
    """Returns the facts in an item's file; experts of one kind have equal facts."""
    facts = json_files.parse(content)
    if problems := json_files.misfits(facts, _Facts, known_only=True):
        raise ValueError(f"{ITEM_FILE}: {'; '.join(problems)}")
    return facts


def as_leaf(store: Any, *, block_bytes: int = CHUNK_BYTES) -> Leaf:
    """Returns an opened array in parts of whole chunks, so that none is read twice.

    Args:
      store: What the future of `start_open` gives.
      block_bytes: Size of a part that is read at once; more where more is stored as
        one.
    """
    shape = tuple(store.shape)
    rows = store.chunk_layout.read_chunk.shape[0] if shape else 1
    row_bytes = math.prod(shape[1:]) * store.dtype.numpy_dtype.itemsize
    rows *= max(1, block_bytes // max(1, rows * row_bytes))
    rows = min(rows, max(1, shape[0])) if shape else 1

    def read(start: int) -> np.ndarray:
        stop = min(start + rows, shape[0])
        block = np.empty((stop - start, *shape[1:]), store.dtype.numpy_dtype)
        ts.array(block).write(store[start:stop]).result()
        return block

    def blocks() -> Iterator[np.ndarray]:
        if not shape:
            yield np.asarray(store.read().result())
        for start in range(0, shape[0] if shape else 0, rows):
            yield read(start)  # and keep nothing of it, as hundreds are read in turn

    return Leaf(shape, store.dtype.numpy_dtype, rows, blocks)
