"""Writes a whole model as a folder that T5ForConditionalGeneration loads."""

import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import paths
from elm_jax.checkpoints import (
    experts,
    huggingface,
    huggingface_config,
    huggingface_files,
    recipes,
    safetensors_writer,
    tensors,
    written_arrays,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.disk import folders

GENERATION = "generation_config.json"


def save(
    folder: str | pathlib.Path,
    leaves: Mapping[str, Leaf],
    model: Mapping[str, Any],
    *,
    dtype: np.dtype,
    max_shard_bytes: int,
    on_bytes: written_arrays.OnBytes,
    recipe: Mapping[str, Any] = types.MappingProxyType({}),
    vocabulary: bytes = b"",
) -> None:
    """Writes config.json, generation_config.json and safetensors; all or nothing.

    Args:
      folder: A new folder; parents are made.
      leaves: Of the whole model, by our names.
      model: Fields of T5Config.
      dtype: Of the tensors in the file: float32 or bfloat16.
      max_shard_bytes: Above it there are several files and an index.
      on_bytes: Called with the bytes written so far.
      recipe: What it is made of, kept beside it (`recipes`); {} keeps nothing.
      vocabulary: SentencePiece model to go with it, as spiece.model; b"" for none.

    Raises:
      CheckpointError: transformers' T5 has no place for a tensor, the folder is
        there already, or it cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    settings = huggingface_config.from_fields(model, dtype.name)
    shapes = {}
    for name, leaf in tensors.plain_shapes(leaves).items():
        place = huggingface.place(name)
        shapes[place.name] = leaf.shape[::-1] if place.is_transposed else leaf.shape
    done = 0
    with experts.new_folder(final) as partial:
        writer = safetensors_writer.Writer(partial, shapes, dtype, max_shard_bytes)
        for name, array in tensors.unstack(leaves):
            place = huggingface.place(name)
            writer.write(place.name, array.T if place.is_transposed else array)
            done += array.size * dtype.itemsize
            on_bytes(done)
        _write_json(partial / "config.json", settings)
        _write_json(partial / GENERATION, huggingface_config.generation_settings())
        if vocabulary:
            (partial / huggingface_files.VOCABULARY).write_bytes(vocabulary)
        if recipe:
            recipes.write(recipes.inside(partial), recipe)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
