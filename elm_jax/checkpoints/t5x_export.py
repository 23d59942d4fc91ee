"""Writes a whole model in T5X's own formats, legacy or Orbax, weights and step.

A model with one table of relative positions a stack is one of `t5x.examples.t5`, a
subtree per layer; one with a table per layer is one of
`t5x.examples.scalable_t5`, all layers on axis 1.
"""

import base64
import json
import pathlib
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from flax import serialization

from elm_jax import paths, trees
from elm_jax.checkpoints import (
    experts,
    recipes,
    stores,
    t5x,
    tensors,
    written_arrays,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.disk import folders
from elm_jax.types import LAYERS

Format = Literal["legacy", "orbax"]
_COMPRESSOR = {"id": "gzip", "level": 1}
_LEGACY_VERSION = 3
_TABLE = f"encoder/{LAYERS}/relpos_bias/rel_embedding"
_COMMITTED = "commit_success.txt"
# One device, as the mesh of T5X names its axes; a reader gives its own placement.
_SHARDING = {
    "sharding_type": "NamedSharding",
    "shape": [1, 1],
    "axis_names": ["data", "model"],
    "axis_types": ["AxisType.Auto", "AxisType.Auto"],
    "partition_spec": [],
    "device_mesh": {"mesh": [[{"id": 0}]]},
}


class _Writer(Protocol):
    def write(self, name: str, array: np.ndarray) -> None: ...

    def finish(self, step: int) -> None: ...


def save(
    folder: str | pathlib.Path,
    leaves: Mapping[str, Leaf],
    *,
    step: int,
    file_format: Format,
    dtype: np.dtype,
    on_bytes: written_arrays.OnBytes,
    recipe: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a checkpoint that T5X restores; all of it or nothing.

    Args:
      folder: A new folder; T5X wants it named `checkpoint_<step>`.
      leaves: Of the whole model, by our names.
      step: Number of updates done.
      file_format: `legacy` (msgpack and zarr) or `orbax`.
      dtype: Of the weights in the file: float32 or bfloat16.
      on_bytes: Called with the bytes written so far.
      recipe: What it is made of, kept beside it (`recipes`); {} keeps nothing.

    Raises:
      CheckpointError: It is there already, or cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    named = _scanned(leaves) if _TABLE in leaves else tensors.unstack(leaves)
    done = 0
    with experts.new_folder(final) as partial:
        make = _LegacyWriter if file_format == "legacy" else _OrbaxWriter
        writer: _Writer = make(partial)
        for name, array in named:
            writer.write(name, np.ascontiguousarray(tensors.cast(array, dtype)))
            done += array.size * dtype.itemsize
            on_bytes(done)
        writer.finish(step)
        if recipe:
            recipes.write(recipes.inside(partial), recipe)


def _scanned(leaves: Mapping[str, Leaf]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields arrays of the scanned network; inverse of `t5x.Checkpoint.leaves`."""
    num_heads = leaves[_TABLE].shape[1]
    for name, leaf in leaves.items():
        stack, separator, rest = name.partition(f"/{LAYERS}/")
        array = tensors.read(leaf)
        if not separator:
            yield name, array
            continue
        if rest.endswith("attention/out/kernel"):
            array = array.reshape(array.shape[0], num_heads, -1, array.shape[-1])
        elif "attention/" in rest and rest.endswith("/kernel"):
            array = array.reshape(*array.shape[:2], num_heads, -1)
        yield f"{stack}/{stack}/{rest}", np.moveaxis(array, 0, 1)


class _LegacyWriter:
    """A zarr array a weight, and a msgpack file that names them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._root = folder, stores.as_url(folder)
        self._specs: dict[str, Any] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        tensors.check_finite({name: array}, of="the expert or base")
        path = f"target.{name.replace('/', '.')}/"
        leaf = _leaf(array)
        store = written_arrays.create(
            f"{self._root}{path}", leaf, array.dtype, _COMPRESSOR
        )
        written_arrays.copy_leaf(store, leaf, array.dtype, lambda block: None)
        self._specs[name] = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": path},
            "metadata": {
                "chunks": list(array.shape),
                "compressor": _COMPRESSOR,
                "shape": list(array.shape),
            },
        }

    def finish(self, step: int) -> None:
        target = trees.unflatten(dict(sorted(self._specs.items())))
        optimizer = {"state": {"step": np.array(step, np.int32)}, "target": target}
        content = {"version": _LEGACY_VERSION, "optimizer": optimizer}
        data = serialization.msgpack_serialize(content)
        (self._folder / t5x.LEGACY_FILE).write_bytes(data)


class _OrbaxWriter:
    """An Orbax item `state` with T5X's files around it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._start = folder, time.time_ns()
        # Its metadata tell T5X of one chunk.
        self._item = written_arrays.ItemWriter(folder / t5x.STATE, as_t5x=True)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        self._add(f"target/{name}", array)

    def _add(self, name: str, array: np.ndarray) -> None:
        facts = {
            "value_type": "jax.Array",
            "skip_deserialize": False,
            "write_shape": list(array.shape),
        }
        self._shapes[name.replace("/", ".")] = array.shape
        self._item.write(name, _leaf(array), array.dtype, facts, lambda block: None)

    def finish(self, step: int) -> None:
        self._add("state/step", np.array(step, np.int32))
        self._item.finish()
        state, dataset = self._folder / t5x.STATE, self._folder / "dataset"
        arrays = [
            {
                "array_metadata": {
                    "param_name": name,
                    "write_shape": list(shape),
                    "chunk_shape": list(shape),
                    "ext_metadata": None,
                }
            }
            for name, shape in sorted(self._shapes.items())
        ]
        (state / "array_metadatas").mkdir()
        _write_json(state / "array_metadatas/process_0", {"array_metadatas": arrays})
        sharding = json.dumps(_SHARDING)
        keys = [base64.b64encode(name.encode()).decode() for name in self._shapes]
        _write_json(state / "_sharding", dict.fromkeys(keys, sharding))
        dataset.mkdir()
        for folder in (state, dataset, self._folder):
            (folder / _COMMITTED).write_text(
                "Checkpoint commit was successful.\n", "utf-8"
            )
        handlers = {
            "dataset": "t5x.checkpoints.DatasetCheckpointHandler",
            "state": "orbax.checkpoint._src.handlers.pytree_checkpoint_handler."
            "PyTreeCheckpointHandler",
        }
        facts = {
            "item_handlers": handlers,
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": self._start,
            "commit_timestamp_nsecs": time.time_ns(),
            "custom_metadata": {},
        }
        _write_json(self._folder / "_CHECKPOINT_METADATA", facts)


def _leaf(array: np.ndarray) -> Leaf:
    read = tensors.Tensor(array.shape, array.dtype, lambda: array)
    return tensors.whole(read)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), "utf-8")
