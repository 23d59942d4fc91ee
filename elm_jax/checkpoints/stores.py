"""Folders of arrays by TensorStore: on disk or in a bucket, plain or as Orbax items."""

import collections
import contextlib
import functools
import json
import math
import pathlib
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import tensorstore as ts

from elm_jax import errors, paths
from elm_jax.checkpoints import tensors
from elm_jax.checkpoints.tensors import Leaf, Tensor
from elm_jax.disk import json_files

ITEM_FILE = "_METADATA"
# Array metadata as Orbax writes it; T5X's older format compresses by gzip.
ORBAX_COMPRESSOR = {"id": "zstd", "level": 1}

CHUNK_BYTES = 1 << 24
"""Of an array that are stored as one, at most, where its shape can be divided so.

Chunks are compressed side by side, and memory of this size is used again, while each
larger piece is taken from the system anew, which takes longer than reading it.
"""

_PARTS_AT_ONCE = 2  # of an array, that are compressed and written
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


OnBytes = Callable[[int], None]
"""Called with the bytes of an array or a part of it, when it has been copied."""


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
    return {name: _leaf(future.result(), block_bytes) for name, future in opening}


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
    """Returns what an item's file tells; experts of one kind have equal ones."""
    facts = json_files.parse(content)
    if problems := json_files.misfits(facts, _Facts, known_only=True):
        raise ValueError(f"{ITEM_FILE}: {'; '.join(problems)}")
    return facts


def _leaf(store: Any, block_bytes: int) -> Leaf:
    """Returns an array in parts of whole chunks, so that none is read twice."""
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
        "store_data_equal_to_fill_value": True,  # see `start_open`
    }
    if replaces:
        spec["context"] = {"file_io_sync": False}
    return ts.open(spec, create=True, open=False, delete_existing=replaces).result()


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
    """Returns in pieces of which length an axis is cut, so that chunks are no larger.

    That is its greatest divisor with which they are; the length itself where there is
    none, or only one with which chunks would be tiny.

    >>> piece(2048, 40 * 2**20), piece(2053, 40 * 2**20)
    (512, 2053)

    Args:
      length: Of the axis.
      num_bytes: Of a chunk with all of it.
    """
    most = length * CHUNK_BYTES // max(1, num_bytes)
    divisors = (n for n in range(most, most // 16, -1) if length % n == 0)
    return length if most >= length else next(divisors, length)


class ItemWriter:
    """Writes an Orbax item array by array; Orbax reads it as one of its own.

    Args:
      folder: Of the item; made here.
      goes_on: Whether the folder may be there, from a writer that was killed. Each
        array is then a folder of its own, which a later one replaces or keeps; else
        all arrays are in one database.
      cuts: As for `create`.
    """

    def __init__(
        self, folder: pathlib.Path, *, goes_on: bool = False, cuts: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=goes_on)
        self._folder, self._root = folder, as_url(folder)
        self._goes_on, self._cuts = goes_on, cuts
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
          leaf: Its parts.
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
            ORBAX_COMPRESSOR,
            cuts=self._cuts,
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
          ValueError: There is none.
        """
        self._list(name, value_metadata)
        return _leaf(start_open(self._kvstore(name)).result(), CHUNK_BYTES)

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
        """Writes what makes it an item."""
        facts = {
            "tree_metadata": dict(sorted(self._tree.items())),
            "use_ocdbt": not self._goes_on,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (self._folder / ITEM_FILE).write_text(json.dumps(facts), "utf-8")


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
