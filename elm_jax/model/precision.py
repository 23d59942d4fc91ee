"""Parameters in the dtype in which the model computes with them."""

from typing import Any

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.types import Params

# What a model multiplies in float32, whatever its compute dtype.
_OUTPUT_LAYER = "decoder/logits_dense/kernel"
_EMBEDDING = "token_embedder/embedding"
# A router's scores are compared with each other.
_ROUTER = "_adapter/router/"


def in_compute_dtype(shape: config_lib.T5Config, params: Params) -> dict[str, Any]:
    """Returns parameters that do not train as the model casts them at each use.

    The model computes the same bits with them, without casting them in every step,
    and bfloat16 takes half of the memory. The output layer stays float32.

    Args:
      shape: The model, whose `dtype` counts.
      params: Arrays, or jax.ShapeDtypeStruct; in any float dtype of at least as many
        bits.
    """
    leaves = trees.flatten(params)
    return trees.unflatten(
        {n: _cast(a, frozen_dtype(shape, n)) for n, a in leaves.items()}
    )


def frozen_dtype(shape: config_lib.T5Config, name: str) -> np.dtype:
    """Returns the dtype of a parameter that does not train; see `in_compute_dtype`."""
    kept = _EMBEDDING if shape.logits_via_embedding else _OUTPUT_LAYER
    is_kept = name == kept or _ROUTER in name
    return jax.numpy.dtype("float32" if is_kept else shape.dtype)


def _cast(leaf: Any, dtype: np.dtype) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    return leaf.astype(dtype)
