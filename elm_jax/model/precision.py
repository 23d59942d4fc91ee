"""Parameters in the dtype in which the model computes with them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.model import int8_kernels
from elm_jax.types import Params

# What a model multiplies in float32, whatever its compute dtype.
_OUTPUT_LAYER = "decoder/logits_dense/kernel"
_EMBEDDING = "token_embedder/embedding"
# A router's scores are compared with each other.
_ROUTERS = ("_adapter/router/", "_norm/router/")


def in_compute_dtype(shape: config_lib.T5Config, params: Params) -> dict[str, Any]:
    """Returns parameters that do not train as the model casts them at each use.

    The model computes the same bits with them, without casting them in every step,
    and bfloat16 takes half of the memory. The output layer stays float32. Where the
    model's `base_dtype` is int8, matrices of layers are rounded to it and have their
    scales beside them; without, the model would compute another function.

    Args:
      shape: The model, whose `dtype` and `base_dtype` count.
      params: Arrays, or jax.ShapeDtypeStruct; in any float dtype of at least as many
        bits.

    Raises:
      MissingExtraError: Matrices are to be rounded to int8, and qwix is not installed.
    """
    leaves = trees.flatten(params)
    return trees.unflatten(
        {n: a for name in leaves for n, a in held(shape, name, leaves[name]).items()}
    )


def held(shape: config_lib.T5Config, name: str, leaf: Any) -> Mapping[str, Any]:
    """Returns a parameter that does not train as it is held: one array or two, by name.

    Args:
      shape: The model, whose `dtype` and `base_dtype` count.
      name: Of the parameter.
      leaf: An array or a jax.ShapeDtypeStruct. An array of NumPy gives such.

    Raises:
      MissingExtraError: It is to be rounded to int8, and qwix is not installed.
    """
    if shape.base_dtype != int8_kernels.INT8 or not int8_kernels.is_held(name):
        return {name: cast(leaf, frozen_dtype(shape, name))}
    is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
    kernel = (int8_kernels.held_shape if is_shape else int8_kernels.held)(leaf)
    return {name: kernel.values, int8_kernels.scale_of(name): kernel.scales}


def frozen_dtype(shape: config_lib.T5Config, name: str) -> np.dtype:
    """Returns the dtype of a parameter that does not train, unless it is held as int8.

    See `in_compute_dtype`.
    """
    float32_name = _EMBEDDING if shape.logits_via_embedding else _OUTPUT_LAYER
    is_kept = name == float32_name or any(part in name for part in _ROUTERS)
    return jax.numpy.dtype("float32" if is_kept else shape.dtype)


def cast(leaf: Any, dtype: np.dtype) -> Any:
    """Returns an array or its shape in a dtype; of NumPy as a device would cast."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    if isinstance(leaf, jax.Array):
        return leaf.astype(dtype)
    with np.errstate(over="ignore"):  # infinite, as on a device
        return np.asarray(leaf, dtype)
