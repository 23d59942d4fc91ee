"""Uses of float32 parameters in a narrower dtype, with gradients summed in float32.

The gradient of a parameter is a sum over all tokens of a batch, on all devices. JAX's
own gradient of `jnp.dot(rows, kernel.astype(rows.dtype))` rounds that sum to the narrow
dtype on each device, and adds the devices' sums in the narrow dtype, too: the cast
comes before the sum. Here both sums are float32. Values are the same, and so are the
gradients where nothing is cast.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array


def product(rows: Array, kernel: Array) -> Array:
    """Returns [..., outputs] of [..., inputs] and [inputs, outputs].

    Args:
      rows: In the dtype to compute in.
      kernel: In that dtype or a wider one.
    """
    if rows.dtype == kernel.dtype:
        return _dot(rows, kernel)
    return _product(rows, kernel)


@jax.custom_vjp
def _product(rows: Array, kernel: Array) -> Array:
    return _dot(rows, kernel.astype(rows.dtype))


def _product_forward(rows: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # Written out, so that `remat = "products"` sees a product, and keeps it.
    return _dot(rows, kernel.astype(rows.dtype)), (rows, kernel)


def _product_backward(
    residuals: tuple[Array, Array], grads: Array
) -> tuple[Array, Array]:
    rows, kernel = residuals
    of_rows = _dot(grads, kernel.astype(rows.dtype).T)
    flat, of_flat = (part.reshape(-1, part.shape[-1]) for part in (rows, grads))
    of_kernel = jnp.einsum(
        "ni,no->io", flat, of_flat, preferred_element_type=kernel.dtype
    )
    return of_rows, of_kernel


_product.defvjp(_product_forward, _product_backward)


def scaled(x: Array, scale: Array) -> Array:
    """Returns [..., features] multiplied by a scale [features], in the dtype of x."""
    if x.dtype == scale.dtype:
        return x * _spread(scale, x)
    return _scaled(x, scale)


@jax.custom_vjp
def _scaled(x: Array, scale: Array) -> Array:
    return x * _spread(scale.astype(x.dtype), x)


def _scaled_forward(x: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scaled(x, scale), (x, scale)


def _scaled_backward(
    residuals: tuple[Array, Array], grads: Array
) -> tuple[Array, Array]:
    x, scale = residuals
    of_x = grads * _spread(scale.astype(x.dtype), x)
    products = x.astype(scale.dtype) * grads.astype(scale.dtype)
    return of_x, jnp.sum(products, axis=tuple(range(x.ndim - 1)))


_scaled.defvjp(_scaled_forward, _scaled_backward)


def shifted(x: Array, bias: Array) -> Array:
    """Returns [..., features] plus a bias [features], in the dtype of x."""
    if x.dtype == bias.dtype:
        return x + _spread(bias, x)
    return _shifted(x, bias)


@jax.custom_vjp
def _shifted(x: Array, bias: Array) -> Array:
    return x + _spread(bias.astype(x.dtype), x)


def _shifted_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    return _shifted(x, bias), jnp.zeros(0, bias.dtype)


def _shifted_backward(like: Array, grads: Array) -> tuple[Array, Array]:
    return grads, jnp.sum(grads.astype(like.dtype), axis=tuple(range(grads.ndim - 1)))


_shifted.defvjp(_shifted_forward, _shifted_backward)


def rounded(x: Array, dtype: str) -> Array:
    """Returns the values nearest to x in a dtype, in the dtype of x.

    The gradient is passed on as it is.
    """
    return _rounded(x, dtype) if x.dtype != dtype else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rounded(x: Array, dtype: str) -> Array:
    return x.astype(dtype).astype(x.dtype)


_rounded.defvjp(
    lambda x, dtype: (_rounded(x, dtype), None),
    lambda dtype, residuals, grads: (grads,),
)


def einsum(subscripts: str, *operands: Array) -> Array:
    """Returns `jnp.einsum` with the products of float32 values as exact as float32.

    By default GPUs round the values to TF32 first, and TPUs to bfloat16.
    """
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum(subscripts, *operands, precision=exact)


def _dot(rows: Array, kernel: Array) -> Array:
    last = (((rows.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(rows, kernel, last)


def _spread(vector: Array, like: Array) -> Array:
    return vector.reshape(*(1,) * (like.ndim - 1), -1)
