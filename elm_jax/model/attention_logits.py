"""Attention logits and their bias, with gradients that are cheap on all hardware."""

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def logits_of(query: Array, keys: Array) -> Array:
    """Returns float32 logits [B, H, T, S] of [B, H, T, K] and [B, H, S, K].

    Gradients are products in the dtype of the arguments. Left to itself, JAX
    multiplies the logits' float32 gradient by keys widened to float32, which costs
    an accelerator at least twice the time.
    """
    return jnp.einsum(
        "bhtk,bhsk->bhts", query, keys, preferred_element_type=jnp.float32
    )


def _logits_of_forward(query: Array, keys: Array) -> tuple[Array, tuple[Array, Array]]:
    return logits_of(query, keys), (query, keys)


def _logits_of_backward(
    residuals: tuple[Array, Array], grads: Array
) -> tuple[Array, Array]:
    query, keys = residuals
    grads = grads.astype(query.dtype)
    of_query = jnp.einsum("bhts,bhsk->bhtk", grads, keys)
    return of_query, jnp.einsum("bhts,bhtk->bhsk", grads, query)


logits_of.defvjp(_logits_of_forward, _logits_of_backward)


@jax.custom_vjp
def add_bias(logits: Array, bias: Array) -> Array:
    """Returns logits [B, H, T, S] plus a bias [1, H, T, S].

    The bias's gradient is a sum over the batch, written as a product: XLA's CPU
    backend takes some fifty times as long to sum over a leading axis.
    """
    return logits + bias


def _add_bias_forward(logits: Array, bias: Array) -> tuple[Array, None]:
    return logits + bias, None


def _add_bias_backward(_: None, grads: Array) -> tuple[Array, Array]:
    ones = jnp.ones(grads.shape[0], grads.dtype)
    return grads, jnp.einsum("b,bhts->hts", ones, grads)[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
