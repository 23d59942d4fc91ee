"""Writes bottleneck experts for transformers: weights, settings, and their loader.

The loader is `elm_expert.py` of this folder, copied as it is; it alone reads them.
"""

import hashlib
import json
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    bottleneck_places,
    experts,
    huggingface,
    huggingface_config,
    layers,
    recipes,
    tensors,
)
from elm_jax.disk import folders
from elm_jax.types import Params

LOADER = "elm_expert.py"
CONFIG = "elm_expert.json"
WEIGHTS = "elm_expert.safetensors"
FORMAT = 1


def save(
    folder: str | pathlib.Path,
    spec: Mapping[str, Any],
    params: Params,
    *,
    model: Mapping[str, Any],
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a folder with which `elm_expert.attach` makes a model the expert.

    Args:
      folder: A new folder; parents are made.
      spec: Fields of the adapter's specification.
      params: The expert's tensors, layers stacked, all that its manifest tells.
      model: Fields of T5Config.
      facts: What the loader tells people: name, base_name and base_model, and
        base_dtype where the base was held otherwise than in floats.
      recipe: What it is made of, kept beside it (`recipes`); {} keeps nothing.

    Raises:
      CheckpointError: The expert holds more than adapters and layer norms, a number is
        not finite, the folder is there already, or it cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    subject = f"the bottleneck expert for {final}"
    arrays = to_torch(params, of=subject)
    width = bottleneck_places.width(params, spec["points"], of=subject)
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    settings = {
        "format": FORMAT,
        **facts,
        "activation": spec["activation"],
        "parallel": spec["parallel"],
        "points": list(spec["points"]),
        "width": width,
        "model": _model_settings(model),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    loader = pathlib.Path(__file__).with_name(LOADER).read_bytes()
    with experts.new_folder(final) as partial:
        (partial / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        (partial / WEIGHTS).write_bytes(content)
        (partial / LOADER).write_bytes(loader)
        if recipe:
            recipes.write(recipes.inside(partial), recipe)


def to_torch(params: Params, *, of: str) -> dict[str, np.ndarray]:
    """Returns an expert's tensors, float32, as the loader and transformers name them.

    Args:
      params: Adapters and layer norms, layers stacked.
      of: What they are of, for messages.

    Raises:
      CheckpointError: There are other tensors, or a number is not finite.
    """
    torch_tensors, unplaced = {}, []
    for name, leaf in trees.flatten(layers.unstack_layers(params)).items():
        array = np.asarray(leaf, np.float32)
        if place := bottleneck_places.find(name):
            part = "bias" if place.part == "bias" else "weight"
            torch_name = f"{place.module}.elm_adapter.{place.side}.{part}"
        elif name.endswith("_norm/scale"):
            torch_name = huggingface.place(name).name
        else:
            unplaced.append(name)
            continue
        torch_tensors[torch_name] = np.ascontiguousarray(array.T)
    if unplaced:
        raise errors.CheckpointError(
            found=f"{of} that also holds {', '.join(unplaced[:5])}",
            expected="bottleneck adapters and layer norms",
            do="Use it with elm_jax: no other program has a place for its parts",
        )
    tensors.check_finite(torch_tensors, of=of)
    return dict(sorted(torch_tensors.items()))


def _model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what transformers' T5Config has to say for the expert to fit.

    Raises:
      CheckpointError: No T5 of transformers computes so.
    """
    settings = huggingface_config.from_fields(model, "float32")
    if model.get("relpos_per_layer"):
        raise errors.CheckpointError(
            found="a model with relative positions per layer",
            expected="one table of relative positions a stack, as transformers has",
            do="Use the expert with elm_jax",
        )
    names = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers")
    relpos = ("relative_attention_num_buckets", "relative_attention_max_distance")
    gated, _, activation = settings["feed_forward_proj"].rpartition("-")
    return {
        **{name: settings[name] for name in (*names, *relpos)},
        "is_gated_act": bool(gated),
        "dense_act_fn": {"gelu": "gelu_new"}.get(activation, activation),
    }
