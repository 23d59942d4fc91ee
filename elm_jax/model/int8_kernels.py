"""Matrices of layers as int8 values with a scale for each output: half of bfloat16.

A matrix [inputs, outputs] is held as int8 `kernel` and float32 `kernel_scale` [outputs]
beside it, and stands for their product; below a stack of layers both have the layers in
front. Only what a frozen model has of such matrices is held so: embeddings, norms, the
output layer and all of adapters are as ever.

A product multiplies with the int8 values, cast to the compute dtype, in which they are
exact, and scales what comes out. No other copy of a matrix is kept for the backward
pass. With `scan_unroll` = 1 at most one of each matrix of the layer at work is there;
with more, casts of several layers may live at once, and in decoding those of all layers
of the decoder.
"""

import importlib
import importlib.util
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors
from elm_jax.types import LAYERS

Array = jax.Array

INT8 = "int8"
"""`T5Config.base_dtype` of a model whose matrices are held so."""

SCALE = "kernel_scale"
"""Name of the scales beside a `kernel`."""

_HELD = re.compile(
    rf"/{LAYERS}/(\w*attention/(query|key|value|out)|mlp/(wi(_\d+)?|wo))/kernel$"
)


class Held(NamedTuple):
    """An int8 matrix or a stack of such: arrays, or jax.ShapeDtypeStruct.

    Attributes:
      values: int8 [..., inputs, outputs].
      scales: float32 [..., outputs].
    """

    values: Any
    scales: Any


def is_held(name: str) -> bool:
    """Returns whether a parameter is a matrix that may be held as int8.

    >>> is_held("encoder/layers/mlp/wi_0/kernel")
    True
    >>> is_held("encoder/layers/mlp_adapter/down/kernel")
    False
    """
    return _HELD.search(name) is not None


def scale_of(name: str) -> str:
    """Returns the name of the scales of a matrix."""
    return f"{name.removesuffix('kernel')}{SCALE}"


def matrix_of(name: str) -> str:
    """Returns the name of a matrix, given its own name or the name of its scales.

    >>> matrix_of("encoder/layers/mlp/wo/kernel_scale")
    'encoder/layers/mlp/wo/kernel'
    """
    return re.sub(rf"/{SCALE}$", "/kernel", name)


def held_shape(kernel: Any) -> Held:
    """Returns the shapes of a matrix or a stack of them; reads no value."""
    *stack, _, outputs = kernel.shape
    return Held(
        jax.ShapeDtypeStruct(kernel.shape, jnp.int8),
        jax.ShapeDtypeStruct((*stack, outputs), jnp.float32),
    )


def held(kernel: Any) -> Held:
    """Returns a stack of matrices as NumPy arrays, one matrix at a time.

    Of each output the largest number decides the scale. No value is further than half a
    scale from what it stands for.

    Args:
      kernel: [layers, inputs, outputs] of any float dtype.

    Raises:
      MissingExtraError: qwix is not installed.
    """
    quantize = _quantize_fn()
    values, scales = (np.empty(s.shape, s.dtype) for s in held_shape(kernel))
    for number, matrix in enumerate(np.asarray(kernel)):
        values[number], scales[number] = quantize(matrix.astype(np.float32))
    return Held(values, scales)


def check_installed(base_dtype: str = INT8) -> None:
    """Raises MissingExtraError if a base is to be rounded, and qwix is not installed.

    Args:
      base_dtype: How the base is held, `T5Config.base_dtype`.
    """
    if base_dtype == INT8 and importlib.util.find_spec("qwix") is None:
        raise errors.MissingExtraError(
            found="a base to be held as int8, and no package qwix",
            expected="the extra `quantized`, which brings it",
            do="Install it: pip install 'elm_jax[quantized]', in a clone"
            " pip install -e '.[quantized]'; or use a base whose base_dtype is ''",
        )


def _quantize_fn() -> Any:
    check_installed()
    qwix: Any = importlib.import_module("qwix")

    @jax.jit
    def quantize(matrix: Array) -> tuple[Array, Array]:
        quantized = qwix.quantize(matrix, jnp.int8, channelwise_axes=(1,))
        return quantized.qvalue, quantized.scale[0]

    return quantize


@jax.custom_vjp
def product(rows: Array, values: Array, scales: Array) -> Array:
    """Returns [N, outputs] of rows [N, inputs] and a matrix, in the dtype of the rows.

    Args:
      rows: In the dtype to compute in.
      values: int8 [inputs, outputs].
      scales: float32 [outputs]; nothing here trains.
    """
    return _scaled(jnp.dot(rows, values.astype(rows.dtype)), scales)


def _forward(
    rows: Array, values: Array, scales: Array
) -> tuple[Array, tuple[Array, Array]]:
    # Written out, so that `remat = "products"` sees a product, and keeps it.
    outputs = _scaled(jnp.dot(rows, values.astype(rows.dtype)), scales)
    return outputs, (values, scales)


def _backward(residuals: tuple[Array, Array], grads: Array) -> tuple[Array, None, None]:
    values, scales = residuals
    return jnp.dot(_scaled(grads, scales), values.astype(grads.dtype).T), None, None


product.defvjp(_forward, _backward)


def _scaled(x: Array, scales: Array) -> Array:
    return (x.astype(jnp.float32) * scales[None]).astype(x.dtype)
