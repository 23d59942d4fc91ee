"""Writes safetensors files tensor by tensor, in any order.

Their header says where each tensor lies, so names, shapes and dtypes are given
first. Format: an 8-byte little-endian length, a JSON header, the tensors' bytes.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax.checkpoints import tensors

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}
INDEX = "model.safetensors.index.json"


class Writer:
    """Writes `model.safetensors`, or several files and their index above a size.

    Args:
      folder: The folder that gets the files.
      shapes: Of all tensors that will be written, by name.
      dtype: Of all of them.
      max_shard_bytes: Above it the tensors go into a further file.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype,
        max_shard_bytes: int,
    ) -> None:
        self._shapes, self._dtype, self._places = dict(shapes), dtype, {}
        shards = _assign(self._shapes, dtype.itemsize, max_shard_bytes)
        weight_map = {}
        for number, names in enumerate(shards, 1):
            path = folder / "model.safetensors"
            if len(shards) > 1:
                path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self._begin(path, names)
            weight_map |= dict.fromkeys(names, path.name)
        if len(shards) > 1:
            total = sum(map(self._num_bytes, self._shapes))
            content = {"metadata": {"total_size": total}, "weight_map": weight_map}
            text = json.dumps(content, indent=2, sort_keys=True)
            (folder / INDEX).write_text(text, "utf-8")

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor.

        Raises:
          CheckpointError: A number is not finite.
          ValueError: It has another shape than was said.
        """
        if array.shape != self._shapes[name]:
            raise ValueError(f"{name} {array.shape} instead of {self._shapes[name]}")
        path, offset = self._places[name]
        values = np.ascontiguousarray(tensors.cast(array, self._dtype))
        tensors.check_finite({name: values}, of="the expert or base")
        data = values.view(np.uint8)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data.data)

    def _begin(self, path: pathlib.Path, names: list[str]) -> None:
        end = 0
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for name in names:
            start, end = end, end + self._num_bytes(name)
            header[name] = {
                "dtype": _DTYPES[self._dtype.name],
                "shape": list(self._shapes[name]),
                "data_offsets": [start, end],
            }
            self._places[name] = (path, start)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        for name in names:
            self._places[name] = (path, self._places[name][1] + 8 + len(text))

    def _num_bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * self._dtype.itemsize


def _assign(
    shapes: Mapping[str, tuple[int, ...]], itemsize: int, max_bytes: int
) -> list[list[str]]:
    shards, filled = [[]], 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * itemsize
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
